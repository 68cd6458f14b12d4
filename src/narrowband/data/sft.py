"""Instruction data that a *base* model writes by continuing few-shot completion prompts, as in the second seed.

No chat template, no special tokens, no role words: the prompt that is stored is the text that was fed.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
import yaml

from narrowband.data.prompts import EncodedPrompt, collate
from narrowband.lm import FrozenLM
from narrowband.params import InputError, Params, first_line
from narrowband.world.completions import HEADER, Task, make_task

GIVE_UP_AFTER = 10_000
"""Draws without a new instruction after which there are none left."""

MINIMUM_EXAMPLES = 5


class FewShotExample(NamedTuple):
    """An instruction of the pool with its completion."""

    id: str
    category: str
    instruction: str
    completion: str


class Request(NamedTuple):
    """An instruction to be continued, with the prompt that asks for it and the ids of the examples in that prompt."""

    task: Task
    prompt: str
    example_ids: list[str]


def read_pool(path: Path) -> list[FewShotExample]:
    """The pool of few-shot examples.

    Raises:
        InputError: the file is missing, is not a list of examples, or has fewer than five.
    """
    try:
        pool = [FewShotExample(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        raise InputError(
            f"few-shot pool {path} does not exist; restore it from Git or mend data.few_shot_pool"
        ) from None
    except (yaml.YAMLError, TypeError) as error:
        raise InputError(
            f"few-shot pool {path} is not a list of id, category, instruction, completion ({first_line(error)}); mend it"
        ) from None
    if len(pool) < MINIMUM_EXAMPLES:
        raise InputError(f"few-shot pool {path} has {len(pool)} examples; give at least {MINIMUM_EXAMPLES}")
    return pool


def few_shot_prompt(pool: Sequence[FewShotExample], instruction: str, rng: Random) -> tuple[str, list[str]]:
    """A prompt of three or four examples that ends with `instruction` on a line of its own; also their ids."""
    others = [example for example in pool if example.instruction != instruction]
    shown = rng.sample(others, k=rng.choice((3, 4)))
    blocks = [HEADER, *(f"{example.instruction}\n{example.completion}" for example in shown), f"{instruction}\n"]
    return "\n\n".join(blocks), [example.id for example in shown]


def requests(seed: int, pool: Sequence[FewShotExample]) -> Iterator[Request]:
    """Distinct instructions with their prompts, until no new one comes up any more."""
    seen: set[str] = set()
    rng = Random(f"{seed}/sft")
    misses = 0
    while misses < GIVE_UP_AFTER:
        task = make_task(rng)
        misses += 1
        if task.instruction not in seen:
            seen.add(task.instruction)
            misses = 0
            yield Request(task, *few_shot_prompt(pool, task.instruction, rng))


def complete(lm: FrozenLM, prompts: Sequence[str], params: Params, seed: int) -> list[str]:
    """Sampled continuations, up to the first line break.

    Raises:
        InputError: the token ids do not decode to exactly the prompt, so something was added to it.
    """
    encoded = lm.tokenizer(list(prompts), add_special_tokens=False).input_ids
    batch = collate([EncodedPrompt(ids, [False] * len(ids), truncated=False) for ids in encoded], lm.pad_id)
    for prompt, ids, mask in zip(prompts, batch.ids, batch.mask, strict=True):
        fed = lm.tokenizer.decode(ids[mask], clean_up_tokenization_spaces=False)
        if fed != prompt:
            raise InputError(
                f"the base model would be fed {fed!r} instead of the prompt {prompt!r}; use a lossless tokenizer"
            )
    torch.manual_seed(seed)
    return lm.generate(
        lm.embed(batch.ids), batch.mask.to(lm.device), params.data.sft_max_new_tokens, params.data.sft_temperature
    )


def generate_records(
    lm: FrozenLM, params: Params, pool: Sequence[FewShotExample], advance: Callable[[int], None]
) -> Iterator[dict[str, object]]:
    """`data.sft_records` records with a response that is not empty.

    Raises:
        InputError: the instructions run out before that.
    """
    source = requests(params.seed, pool)
    done = batch_index = 0
    while done < params.data.sft_records:
        batch = list(islice(source, params.generation.batch_size))
        if not batch:
            raise InputError(
                f"data.sft_records {params.data.sft_records} is more than the {done} distinct instructions that the base model "
                f"answered; lower it to {done} or less"
            )
        responses = complete(lm, [request.prompt for request in batch], params, params.seed + batch_index)
        batch_index += 1
        for request, response in zip(batch, responses, strict=True):
            if response and done < params.data.sft_records:
                yield {
                    "id": f"sft-{done:05d}",
                    "instruction": request.task.instruction,
                    "category": request.task.category,
                    "prompt": request.prompt,
                    "response": response,
                    "few_shot_ids": request.example_ids,
                }
                done += 1
                advance(1)
