import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as reference

from narrowband.data.squad import Answer, Example
from narrowband.evaluation.scoring import score, score_all
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
    ("the 5 \u00b5m film", ["5 \u00b5m film"]),
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


OTHER_SCRIPTS = [
    ("北京。", "北京", 100, 100),
    ("在北京", "北京", 0, 80),  # 2 of 3 characters, and 2 of 2
    ("1999年", "1999", 0, 200 / 3),
    ("東京タワー", "東京", 0, 400 / 7),
    ("القاهرة،", "القاهرة", 100, 100),
    ("في القاهرة", "القاهرة", 0, 200 / 3),
    ("हिन्दी भाषा।", "हिन्दी", 0, 200 / 3),
    ("กรุงเทพ", "กรุงเทพ", 100, 100),
    ("Москва!", "москва", 100, 100),
    ("the β helix", "β helix", 100, 100),
    ("上海", "北京", 0, 0),
    ("6,300", "6,300公里", 0, 50),  # one word of one, and of three
    ("6,650", "6,650 كم", 0, 200 / 3),
    ("1,232 км", "1,232", 0, 200 / 3),
    ("3.5万", "3.5", 0, 200 / 3),
    ("COVID-19", "COVID-19 病毒", 0, 50),
    ("6300。", "6300", 100, 100),
    ("NASA！", "NASA", 100, 100),
    ("1945،", "1945", 100, 100),
    (unicodedata.normalize("NFC", "서울"), unicodedata.normalize("NFD", "서울"), 100, 100),
    (unicodedata.normalize("NFC", "Hà Nội"), unicodedata.normalize("NFD", "Hà Nội"), 100, 100),
]


@pytest.mark.parametrize(("prediction", "gold", "em", "f1"), OTHER_SCRIPTS)
def test_scripts_without_spaces_are_scored_by_characters_and_no_punctuation_counts(
    prediction: str, gold: str, em: float, f1: float
) -> None:
    assert score(prediction, [gold]) == pytest.approx((em, f1))


def test_each_metric_takes_its_own_best_gold_and_missing_predictions_count_zero() -> None:
    examples = [Example(str(i), "c", "q", (Answer("red fox", 0), Answer("fox", 0))) for i in range(2)]
    scores = score_all({"0": "fox"}, examples)
    assert scores[0] == (100, 100)
    assert scores[1] == (0, 0)


def test_no_question_is_no_score() -> None:
    with pytest.raises(InputError, match="no question to score"):
        score_all({}, [])


UNANSWERABLE = ()
BY_HAND = [
    # golds, prediction, exact match and F1 by evaluate-v2.0: an empty answer alone is right where there is no gold
    (UNANSWERABLE, "", 100, 100),
    (UNANSWERABLE, "the", 100, 100),  # normalised to nothing, as the official script does
    (UNANSWERABLE, "fox", 0, 0),
    (("fox", "red fox"), "", 0, 0),
    (("fox", "red fox"), "a red fox", 100, 100),
    (("red fox",), "fox", 0, 200 / 3),
    (("the", "fox"), "", 0, 0),  # "the" is no gold: no word of it is left
    (("the",), "", 100, 100),  # and without a gold the question is unanswerable
    (("fox",), None, 0, 0),
]


def test_unanswerable_questions_are_scored_by_the_rule_of_v2() -> None:
    examples = [
        Example(str(i), "c", "q", tuple(Answer(gold, 0) for gold in golds)) for i, (golds, *_) in enumerate(BY_HAND)
    ]
    predictions = {str(i): prediction for i, (_, prediction, *_) in enumerate(BY_HAND) if prediction is not None}
    for found, (*_, em, f1) in zip(score_all(predictions, examples), BY_HAND, strict=True):
        assert found == pytest.approx((em, f1))
