import pytest

from narrowband.data.squad import Answer, Example
from narrowband.evaluation.form import answer_form, faults
from narrowband.lm.stop import Reply

PARIS = Example("a", "It is in Paris.", "Where?", (Answer("Paris", 9),))
ARMY = Example("b", "The Unit. A unit.", "What?", (Answer("The Unit. A", 0),))
NONE = Example("c", "It is in Paris.", "Who?", ())


def test_shares_of_answers_by_their_form() -> None:
    replies = [
        Reply("", True),
        Reply("Paris. The tower is", True),
        Reply("Unit. A", False),  # so does its gold answer
        Reply("", False),  # which is right
    ]
    form = answer_form(replies, [PARIS, PARIS, ARMY, NONE])
    assert form == {"empty": 0.25, "cut": 0.5, "run_on": 0.25}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (1, 0)),
        ("Paris. The tower is in that city", (0, 1)),
        ("the Paris!", (0, 0)),  # right
        ("in Paris", (0, 0)),  # near enough
        ("Comparison of towers in that city", (0, 0)),  # holds no gold answer as a word
        ("Lyon", (0, 0)),
    ],
)
def test_empty_and_buried_answers_are_faults_of_form(text: str, expected: tuple[float, float]) -> None:
    assert faults({"a": text}, [PARIS]) == expected


def test_an_empty_answer_where_there_is_none_is_no_fault() -> None:
    assert faults({"c": ""}, [NONE]) == (0, 0)
