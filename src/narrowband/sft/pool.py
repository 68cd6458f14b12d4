"""How an instruction becomes a prompt for a base model, with or without examples before it.

No chat template, no role words, no special tokens in the text: the model reads exactly the text that is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Literal, NamedTuple, TypeVar

import yaml
from pydantic import StringConstraints, TypeAdapter, ValidationError
from rapidfuzz.distance import Postfix, Prefix
from transformers import PreTrainedTokenizerBase

from narrowband.lm.plain_text import encode_plainly
from narrowband.params import InputError, PromptStyle, first_line
from narrowband.runtime.files import read_yaml
from narrowband.world.completions import HEADER

InstructionType = Literal["qa", "completion", "generation", "response"]

FORMS: dict[InstructionType, str] = {
    "qa": "Q: {}\nA:",
    "completion": "{}",
    "generation": "{}\n",
    "response": "Task: {}\nAnswer:",
}
MINIMUM_EXAMPLES = 5


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""Text of a pool, without spaces and line breaks around it."""

Entry = TypeVar("Entry", bound=NamedTuple)


class FewShotExample(NamedTuple):
    """An instruction with a good completion."""

    id: Text
    category: Text
    instruction: Text
    completion: Text


def read_entries(kind: type[Entry], path: Path, pool: Literal["few-shot", "instruction"]) -> list[Entry]:
    """The entries of a pool.

    Raises:
        InputError: the file is missing, or is not a list of such entries.
    """
    try:
        return TypeAdapter(list[kind]).validate_python(read_yaml(path))  # type: ignore[valid-type]
    except OSError:
        parameter = f"data.{pool.replace('-', '_')}_pool"
        raise InputError(f"{pool} pool {path} does not exist; restore it from Git or change {parameter}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{pool} pool {path} is not YAML ({first_line(error)}); correct it") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise InputError(
            f"{pool} pool {path}: {where} is {problem['input']!r}, but the file must be a list of {', '.join(kind._fields)}, all "
            "text; correct it, or put it in quotes"
        ) from None


def read_pool(path: Path) -> list[FewShotExample]:
    """The pool of few-shot examples.

    Raises:
        InputError: the file is missing, is not a list of examples, repeats an id or an instruction, or has fewer than five.
    """
    pool = read_entries(FewShotExample, path, "few-shot")
    distinct = min(len({example.id for example in pool}), len({example.instruction for example in pool}))
    if len(pool) < MINIMUM_EXAMPLES or distinct < len(pool):
        raise InputError(
            f"few-shot pool {path} has {len(pool)} examples, {distinct} of them distinct; give at least {MINIMUM_EXAMPLES}, each "
            "with an id and an instruction of its own"
        )
    return pool


def zero_shot(kind: InstructionType, instruction: str) -> str:
    """The instruction in its completion form; one of several lines has its own cue ("Answer:") and stays as it is."""
    return instruction if "\n" in instruction else FORMS[kind].format(instruction)


def few_shot(examples: Sequence[FewShotExample], instruction: str) -> str:
    """A header, examples with their completions, then the instruction; the model continues on the next line.

    An instruction of several lines has its own cue ("Answer:"), so the model continues on its last line.
    """
    blocks = [HEADER, *(f"{example.instruction}\n{example.completion}" for example in examples)]
    return "\n\n".join([*blocks, instruction]) + ("" if "\n" in instruction else "\n")


def formatted_text(kind: InstructionType, instruction: str, response: str) -> str:
    """The text to train on: the completion form without examples, then the response."""
    form = zero_shot(kind, instruction)
    return form + ("" if form.endswith("\n") else " ") + response


class SftPrompt(NamedTuple):
    """A prompt's text, and the examples in it."""

    text: str
    examples: list[FewShotExample]


@dataclass(frozen=True)
class CompletionPrompts:
    """Builds all prompts of a run, in one style, with examples from one pool."""

    style: PromptStyle
    pool: Sequence[FewShotExample]

    def build(self, kind: InstructionType, instruction: str, seed: int) -> SftPrompt:
        """The prompt of an instruction; `seed` draws the three or four examples, never the instruction itself."""
        if self.style == "completion":
            return SftPrompt(zero_shot(kind, instruction), [])
        rng = Random(seed)
        others = [example for example in self.pool if example.instruction != instruction]
        examples = rng.sample(others, k=rng.choice((3, 4)))
        return SftPrompt(few_shot(examples, instruction), examples)


def encode_exactly(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of prompts, without any special token.

    Raises:
        InputError: the ids do not decode to exactly the prompt.
    """
    rows = []
    for prompt, (ids, fed) in zip(prompts, _fed(tokenizer, prompts), strict=True):
        if fed != prompt:
            raise InputError(_change(prompt, fed))
        rows.append(ids)
    return rows


def are_exact(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[bool]:
    """Of which texts the token ids decode to exactly the text; many tokenizers change characters that are not in NFC."""
    return [fed == text for text, (_, fed) in zip(texts, _fed(tokenizer, texts), strict=True)]


def _fed(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[list[int], str]]:
    """The token ids of texts, without any special token, and the text that they stand for."""
    if not texts:
        return []
    encoded = encode_plainly(tokenizer, texts)
    return [(ids, str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))) for ids in encoded.input_ids]


def _change(prompt: str, fed: str) -> str:
    """What a tokenizer makes of a prompt, in one sentence; what differs may look alike, and is escaped."""
    start = Prefix.similarity(prompt, fed)
    alike = Postfix.similarity(prompt[start:], fed[start:])
    before, after = (text[start : len(text) - alike] for text in (prompt, fed))
    line = prompt[prompt.rfind("\n", 0, start) + 1 :].split("\n", 1)[0]
    return (
        f"the base model would be fed {after!a} instead of {before!a} in {line!r}, as its tokenizer changes the text; change it in "
        "data.few_shot_pool or data.instruction_pool, or use another base model"
    )
