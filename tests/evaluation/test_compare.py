from io import StringIO

import pytest
from rich.console import Console

from narrowband.data.squad import Answer, Example
from narrowband.evaluation.compare import compare
from narrowband.evaluation.headline import TITLES
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params

LONG = "Orvane is a town. " * 40
ANSWERABLE = [
    Example("a", "Orvane is a town.", "What is Orvane?", (Answer("a town", 10), Answer("town", 12))),
    Example("b", LONG, "What is Orvane?", (Answer("a town", 10),)),
]
UNANSWERABLE = [Example("c", "Orvane is a town.", "Who is Belmir?", ()), Example("d", LONG, "Who is Belmir?", ())]


@pytest.fixture
def settings(params: Params) -> Params:
    changes = {"window": 2, "compress_dim": 16, "prompt": params.prompt.model_copy(update={"max_length": 80})}
    generation = params.generation.model_copy(update={"max_new_tokens": 3})
    return params.model_copy(update={**changes, "generation": generation})


def metrics(lm: FrozenLM, examples: list[Example], settings: Params) -> dict:
    return compare(lm, dict.fromkeys(TITLES), examples, settings, Console(file=StringIO())).metrics


def test_prompts_that_were_cut_short_are_counted(lm: FrozenLM, settings: Params) -> None:
    assert metrics(lm, ANSWERABLE, settings)["truncated_share"] == 0.5
    assert metrics(lm, ANSWERABLE[:1], settings)["truncated_share"] == 0


def test_each_kind_of_question_has_its_own_f1_where_some_are_unanswerable(
    lm: FrozenLM, settings: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenLM, "generate", lambda self, embeddings, *rest: ["town"] * len(embeddings))
    found = metrics(lm, ANSWERABLE + UNANSWERABLE, settings)["phase2"]
    assert found["answerable_f1"] == pytest.approx((100 + 100) / 2)  # articles do not count
    assert found["unanswerable_f1"] == 0 and found["f1"] == pytest.approx(50)
    assert "answerable_f1" not in metrics(lm, ANSWERABLE, settings)["phase2"]
