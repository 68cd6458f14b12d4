"""SFT data by the real models: what kind of model each is, BOS, and what its prompts hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
from sft_fakes import FakeBackend, make_inputs, make_model, small, written
from transformers import PreTrainedTokenizerBase

from narrowband.lm.base_model import load_tokenizer
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import Sampling
from narrowband.params import Params, PromptStyle
from narrowband.sft.backend import Continuation, TransformersBackend
from narrowband.sft.journal import Journal
from narrowband.sft.model import Limits, PlainModel
from narrowband.sft.rounds import SftRun
from narrowband.sft.sentinels import ENDED, ask_sentinels, end_ids
from narrowband.sft.write import with_bos

KIND = {"gemma-3-270m": "base", "smollm2-135m-instruct": "instruction-tuned"}
SAID = {"base": "base_model is a base model", "instruction-tuned": "base_model looks instruction-tuned"}
BOS = {"gemma-3-270m": "<bos>", "smollm2-135m-instruct": None}
MEASURED = {"gemma-3-270m": (-3.4855, -8.1463), "smollm2-135m-instruct": (-3.9918, -3.9579)}
"""Nats per token with and without BOS, in docs/sft.md."""


def plain(lm: FrozenLM, folder: Path, bos: tuple[int, ...] = ()) -> PlainModel:
    journal = Journal(folder / "journal.jsonl", "real")
    return PlainModel(TransformersBackend(lm), lm.tokenizer, journal, Limits(4, 512), bos)


def bos_of(name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    return (tokenizer.convert_tokens_to_ids(BOS[name]),) if BOS[name] else ()


def test_bos_is_added_where_it_helps_and_never_as_a_chat_delimiter(
    real: tuple[str, Path], real_lm: FrozenLM, params: Params, tmp_path: Path
) -> None:
    model, choice = with_bos(plain(real_lm, tmp_path), "auto", make_inputs(params))
    assert (choice.with_bos, choice.without_bos) == pytest.approx(MEASURED[real[0]], abs=0.005)
    assert model.bos == bos_of(real[0], model.tokenizer) and choice.added == bool(model.bos)
    assert choice.added or choice.reason == "BOS <|im_start|> is a chat delimiter"


def test_the_sentinels_tell_a_base_model_from_an_instruction_tuned_one(
    real: tuple[str, Path], real_lm: FrozenLM, params: Params, tmp_path: Path
) -> None:
    model = plain(real_lm, tmp_path, bos_of(real[0], real_lm.tokenizer))
    found = ask_sentinels(model, make_inputs(params).pool)
    assert found.kind == KIND[real[0]] and SAID[found.kind] in found.sentence
    assert (found.ended >= ENDED) == (found.kind == "instruction-tuned")  # whatever its tokens are called


class Recorder(FakeBackend):
    """Remembers the token ids that it was fed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self.rows: list[list[int]] = []

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        self.rows += map(list, prompts)
        return super().complete(prompts, seeds, sampling)

    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        self.rows += map(list, prompts)
        return super().margins(prompts, good, bad)


@pytest.mark.parametrize("style", get_args(PromptStyle))
def test_no_prompt_of_a_run_holds_a_special_token_but_bos(
    real: tuple[str, Path], params: Params, tmp_path: Path, style: PromptStyle
) -> None:
    tokenizer = load_tokenizer(str(real[1]))
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {*end_ids(tokenizer)}
    assert special > {tokenizer.bos_token_id, tokenizer.eos_token_id}
    bos = bos_of(real[0], tokenizer)
    settings = small(params, prompt_style=style)
    backend = Recorder(tokenizer)
    model = make_model(backend, tmp_path, bos=bos)
    written(SftRun(model, settings.data, 0, make_inputs(settings), {"backend": "fake"}), tmp_path)
    assert len(backend.rows) > 2 * settings.data.sft_records
    named = model.encode([f"What does {token} mean?" for token in tokenizer.convert_ids_to_tokens(special)])
    for row in [*backend.rows, *named]:
        assert row[: len(bos)] == list(bos) and special.isdisjoint(row[len(bos) :])
