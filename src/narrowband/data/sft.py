"""Instruction data that a *base* model writes by continuing few-shot completion prompts, as in the second seed.

No chat template, no special tokens, no role words: the prompt that is stored is the text that was fed.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
import yaml

from narrowband.data.prompts import Batch
from narrowband.lm import FrozenLM
from narrowband.params import InputError, Params
from narrowband.world.completions import HEADER, Task, make_task

MINIMUM_EXAMPLES = 4


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
        InputError: the file is missing, is not a list of examples, or has fewer than four.
    """
    try:
        pool = [FewShotExample(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        raise InputError(
            f"few-shot pool {path} does not exist; restore it from Git or mend data.few_shot_pool"
        ) from None
    except (yaml.YAMLError, TypeError) as error:
        raise InputError(
            f"few-shot pool {path} is not a list of id, category, instruction, completion ({str(error).splitlines()[0]}); mend it"
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
    """Distinct instructions with their prompts, without end but for the instructions there are."""
    seen: set[str] = set()
    rng = Random(f"{seed}/sft")
    while True:
        task = make_task(rng)
        if task.instruction not in seen:
            seen.add(task.instruction)
            yield Request(task, *few_shot_prompt(pool, task.instruction, rng))


def complete(lm: FrozenLM, prompts: Sequence[str], params: Params, seed: int) -> list[str]:
    """Sampled continuations, up to the first line break.

    Raises:
        RuntimeError: the token ids do not decode to exactly the prompt, so something was added to it.
    """
    encoded = lm.tokenizer(
        list(prompts), add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    batch = Batch(
        encoded.input_ids, encoded.attention_mask.bool(), torch.zeros_like(encoded.input_ids, dtype=torch.bool)
    )
    for prompt, ids, mask in zip(prompts, batch.ids, batch.mask, strict=True):
        fed = lm.tokenizer.decode(ids[mask], clean_up_tokenization_spaces=False)
        if fed != prompt:
            raise RuntimeError(f"the model would be fed {fed!r}, which is not the prompt {prompt!r}")
    torch.manual_seed(seed)
    return lm.generate(
        lm.embed(batch.ids), batch.mask.to(lm.device), params.data.sft_max_new_tokens, params.data.sft_temperature
    )


def generate_records(
    lm: FrozenLM, params: Params, pool: Sequence[FewShotExample], advance: Callable[[int], None]
) -> Iterator[dict[str, object]]:
    """`data.sft_records` records with a response that is not empty."""
    source = requests(params.seed, pool)
    done = batch_index = 0
    while done < params.data.sft_records:
        batch = [next(source) for _ in range(params.generation.batch_size)]
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
