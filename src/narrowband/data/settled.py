"""Choices about prompts that `generate_data` makes once for all later stages: BOS, and the worked examples."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from narrowband.data.prompts import SettledPrompt, encode_answer, encode_prompt, qa_prompt, worked_examples
from narrowband.data.squad import Example
from narrowband.lm.base_model import max_positions
from narrowband.lm.bos import BosChoice, choose_bos, is_chat_delimiter
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Prompt
from narrowband.runtime import paths
from narrowband.runtime.artifacts import checked, read_config
from narrowband.runtime.files import read_json, write_json

FILE = "prompt.json"

DRAWN = 64
"""Training questions, each with a passage of its own, of which the shortest become worked examples."""

MEASURED = 16
"""Training questions that BOS is measured on."""


class Drawn(NamedTuple):
    """Worked examples, shortest first, and the questions that are left to train on."""

    shots: list[Example]
    train: list[Example]


def draw_shots(train: Sequence[Example], count: int, seed: int) -> Drawn:
    """`count` worked examples: the shortest of `DRAWN` answerable questions, each with another passage, drawn by `seed`.

    All questions about their passages are taken out of training: their answers stand in the examples, in plain text.

    Raises:
        InputError: there are too few, or none is left to train on.
    """
    pool: dict[str, int] = {}
    for i in Random(f"{seed}/shots").sample(range(len(train)), len(train)) if count else ():
        if train[i].answers and len(pool) < max(DRAWN, count):
            pool.setdefault(train[i].context, i)
    chosen = sorted(pool.values(), key=lambda i: (len(qa_prompt(train[i].context, train[i].question)), i))[:count]
    passages = {train[i].context for i in chosen}
    left = [one for one in train if one.context not in passages]
    if count and (count > len(pool) or not left):
        raise InputError(
            f"prompt.shots {count} is too many: the training split has {len(train)} questions, {len(pool)} of them with an "
            f"answer and a passage of their own, and one must be left to train on; lower it"
        )
    return Drawn([train[i] for i in chosen], left)


def with_examples(prompt: Prompt, shots: Sequence[Example]) -> SettledPrompt:
    """`prompt` with the text of its worked examples; `bos` stays as it is."""
    return SettledPrompt(**prompt.model_dump(), examples=worked_examples(shots))


def require_bos(name: str, bos: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the parameter `name` asks for a BOS that the base model has, and for none that marks turns of a conversation.

    Raises:
        InputError: it does not.
    """
    if bos not in ("text", "codec"):
        return
    if is_chat_delimiter(str(tokenizer.bos_token)):
        raise InputError(
            f"{name} is {bos}, but BOS of this base model is {tokenizer.bos_token}, a chat delimiter; set {name} to auto or none"
        )
    if tokenizer.bos_token_id is None:
        raise InputError(
            f"{name} is {bos}, but the tokenizer of this base model has no BOS; set {name} to auto or none"
        )


def settle(prompt: Prompt, drawn: Drawn, base_model: str) -> tuple[SettledPrompt, dict[str, Any]]:
    """`prompt` with its examples and with `bos: auto` decided, and the reasons, for `results/data.json`.

    Only `auto` loads the model: it reads context, question and gold answer of `MEASURED` training questions, truncated like any
    prompt, with and without BOS.
    """
    settled = with_examples(prompt, drawn.shots)
    if prompt.bos != "auto":
        return settled, {"bos": prompt.bos, "shots": len(drawn.shots)}
    lm = FrozenLM.load(base_model)
    plain, positions = prompt.model_copy(update={"bos": "none"}), max_positions(lm.model)
    rows = [
        encode_prompt(lm.tokenizer, one.context, one.question, plain).ids + encode_answer(lm.tokenizer, one.golds[0])
        for one in drawn.train[:MEASURED]
    ]
    choice = choose_bos(lm, [row[: positions and positions - 1] for row in rows])
    del lm
    torch.cuda.empty_cache()  # for the model that writes SFT records next
    bos = "text" if choice.added else "none"
    return settled.model_copy(update={"bos": bos}), {"bos": bos, "shots": len(drawn.shots), "bos_choice": told(choice)}


def told(choice: BosChoice) -> dict[str, Any]:
    """`choice` as JSON, without values that were not measured."""
    return {name: value for name, value in choice._asdict().items() if value is not None}


def write_settled(prompt: SettledPrompt, folder: Path = paths.QA) -> None:
    """Write `prompt.json`, which later stages read, beside the questions."""
    write_json(folder / FILE, {"bos": prompt.bos, "examples": prompt.examples})


def asked_for(prompt: Prompt) -> dict[str, Any]:
    """The parameters that `prompt.json` depends on, for the `config.json` beside it."""
    return {"prompt.bos": prompt.bos, "prompt.shots": prompt.shots}


def read_settled(prompt: Prompt) -> SettledPrompt:
    """`prompt` as `generate_data` settled it.

    Raises:
        InputError: `prompt.json` is missing or damaged, or was written for other values of `bos` or `shots`.
    """
    read_config(paths.QA, asked_for(prompt))
    return SettledPrompt(**{**prompt.model_dump(), **read_json(checked(paths.QA / FILE))})
