from dataclasses import replace

import pytest

from narrowband.data.splits import world_example
from narrowband.evaluation.answer import Evaluated
from narrowband.training.alarms import alarms

EXAMPLES = [world_example(0, "validation", i) for i in range(8)]


def told(predictions: list[str], norm_ratio: float) -> list[str]:
    answers = {example.id: text for example, text in zip(EXAMPLES, predictions, strict=True)}
    return alarms(Evaluated(answers, [], {"norm_ratio": norm_ratio}, 1.0, 0.0, {}, {}), EXAMPLES, "phase2")


@pytest.mark.parametrize("repeated", ["the the", "", "Orvane"])
def test_a_collapse_of_predictions_is_told_with_what_to_change(repeated: str) -> None:
    others = [f"answer {i}" for i in range(8)]
    (sentence,) = told([repeated] * 6 + others[:2], 1.0)
    assert sentence.startswith("6 of 8 predictions are ") and "lower phase2.lr" in sentence
    assert told([repeated] * 4 + others[:4], 1.0) == []


def test_an_answer_as_common_as_unanswerable_questions_is_a_collapse() -> None:
    asked = [replace(one, answers=()) if i % 2 else one for i, one in enumerate(EXAMPLES)]
    answers = {example.id: "Orvane" for example in asked}
    (sentence,) = alarms(Evaluated(answers, [], {"norm_ratio": 1.0}, 1.0, 0.0, {}, {}), asked, "phase2")
    assert sentence.startswith("8 of 8 predictions are ")


@pytest.mark.parametrize(("ratio", "wrong"), [(116.5, True), (0.01, True), (float("nan"), True), (1.4, False)])
def test_norms_that_explode_or_vanish_are_told(ratio: float, wrong: bool) -> None:
    assert [("magnitude" in sentence) for sentence in told([f"{i}" for i in range(8)], ratio)] == [True] * wrong
