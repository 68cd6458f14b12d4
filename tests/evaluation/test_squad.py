import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as reference

from narrowband.data.squad import Answer, Example
from narrowband.evaluation.squad import score, score_all
from narrowband.params import InputError

AWKWARD = [
    ("Paris", ["Paris"]),
    ("the Eiffel Tower!", ["Eiffel Tower"]),
    ("", ["Paris"]),
    ("a", ["the"]),
    ("Paris Paris", ["Paris"]),
    ("Paris", ["Paris Paris"]),
    ("new york new york", ["york new", "New York New York City"]),
    ("U.S.A.", ["USA", "u s a"]),
    ("theatre", ["the atre", "a theatre"]),
    ("  tabs\tand\nlines ", ["tabs and lines"]),
    ("naïve café", ["naive cafe", "Naïve  café."]),
    ("«guillemets» — dash", ["guillemets dash"]),
    ("1,000", ["1000", "1 000"]),
    ("An apple a day", ["apple day"]),
]


@pytest.mark.parametrize(("prediction", "golds"), AWKWARD)
def test_agrees_with_torchmetrics(prediction: str, golds: list[str]) -> None:
    agrees(prediction, golds)


@settings(deadline=None, max_examples=200)
@given(
    st.text("aA the.,'\n\t-éß1", max_size=12),
    st.lists(st.text("aA the.,'\n\t-éß1", max_size=12), min_size=1, max_size=3),
)
def test_agrees_with_torchmetrics_on_anything(prediction: str, golds: list[str]) -> None:
    agrees(prediction, golds)


def agrees(prediction: str, golds: list[str]) -> None:
    expected = reference(
        {"prediction_text": prediction, "id": "0"},
        {"answers": {"text": golds, "answer_start": [0] * len(golds)}, "id": "0"},
    )
    found = score(prediction, golds)
    assert found.em == pytest.approx(float(expected["exact_match"]), abs=1e-4)
    assert found.f1 == pytest.approx(float(expected["f1"]), abs=1e-4)


def test_each_metric_takes_its_own_best_gold_and_missing_predictions_count_zero() -> None:
    examples = [Example(str(i), "c", "q", (Answer("red fox", 0), Answer("fox", 0))) for i in range(2)]
    scores = score_all({"0": "fox"}, examples)
    assert scores[0] == (100, 100)
    assert scores[1] == (0, 0)


def test_no_question_is_no_score() -> None:
    with pytest.raises(InputError, match="no question to score"):
        score_all({}, [])
