from pathlib import Path

import pytest
import torch
from making import answerer_of, codec_of
from rich.console import Console

from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.data.prompts import encode_prompt
from narrowband.diagnosis.ask import ask_systems
from narrowband.evaluation.tokens import marked, token_view
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params

LOSSLESS = PCA(torch.eye(64), torch.zeros(64), torch.ones(64), torch.full((1,), 64.0))
CONTEXT, QUESTION = "Orvane is a town.", "What is Orvane?"


@pytest.fixture
def small(params: Params, tiny_model: Path) -> Params:
    return params.model_copy(update={"base_model": str(tiny_model), "window": 2, "compress_dim": 64})


def test_lossless_systems_answer_as_the_uncompressed_one(
    lm: FrozenLM, small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="artifacts/pca is not complete"):
        ask_systems(CONTEXT, QUESTION, answerer_of(lm, small), CodecConfig.of(small))
    LOSSLESS.save(Path("artifacts/pca"), CodecConfig.of(small).geometry)
    for phase in ("phase1", "phase2"):
        codec_of(LOSSLESS, small).save(Path("artifacts") / phase, {})
    table = ask_systems(CONTEXT, QUESTION, answerer_of(lm, small), CodecConfig.of(small))
    _, answers, matches, *_ = ([str(cell) for cell in column.cells] for column in table.columns)
    assert answers == answers[:1] * 4 and answers[0] != "(nothing)"
    assert matches == ["", "100.0", "100.0", "100.0"]
    Console(quiet=True).print(table)


def test_an_empty_question_is_refused(lm: FrozenLM, small: Params) -> None:
    with pytest.raises(InputError, match="must hold text"):
        ask_systems(CONTEXT, " ", answerer_of(lm, small), CodecConfig.of(small))


def test_tokens_that_changed_are_marked(lm: FrozenLM, small: Params) -> None:
    class Swapped(Codec):
        def forward(self, embeddings: torch.Tensor, coded: torch.Tensor) -> torch.Tensor:
            first = int(coded[0].nonzero()[0])
            return torch.where(torch.arange(coded.shape[1])[:, None] == first, lm.vocabulary[300], embeddings)

    prompt = encode_prompt(lm.tokenizer, CONTEXT, QUESTION, small.prompt)
    view = token_view(lm, Swapped(LOSSLESS, CodecConfig.of(small)), prompt)
    assert view.matches == [False, *[True] * (sum(prompt.coded) - 1)]
    assert view.nearest[0] == lm.tokenizer.decode([300]) and view.nearest[1:] == view.original[1:]
    assert [span.style for span in marked(view).spans if span.style] == ["bold red"]
