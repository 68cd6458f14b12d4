import itertools
import math
from math import comb

import numpy as np
import pytest

from narrowband.data.squad import Example
from narrowband.evaluation.answer import QuestionSet
from narrowband.evaluation.significance import RESAMPLES, interval, mcnemar


def test_the_interval_of_many_values_is_nearly_the_normal_one_and_repeats() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    error = values.std(ddof=1) / math.sqrt(1000)
    found = interval(values.tolist(), seed=1)
    assert found["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert interval(values.tolist(), seed=1) == found != interval(values.tolist(), seed=2)


def test_the_interval_of_few_values_holds_95_of_100_of_all_their_resamples() -> None:
    values = [0.0, 10.0, 30.0, 70.0, 150.0]
    means = np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=5)])
    found = interval(values, seed=0)
    tolerance = 4 * math.sqrt(0.025 * 0.975 / RESAMPLES)  # four standard errors of a share of 2.5%
    assert (means < found["low"]).mean() <= 0.025 + tolerance and (means <= found["low"]).mean() >= 0.025 - tolerance
    assert (means > found["high"]).mean() <= 0.025 + tolerance and (means >= found["high"]).mean() >= 0.025 - tolerance


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[0.1] * 7, [100.0] * 3, [42.0]])
def test_values_that_are_all_equal_have_an_interval_of_no_width(values: list[float]) -> None:
    assert interval(values, seed=0) == {"low": values[0], "high": values[0]}


def test_whole_groups_are_resampled() -> None:
    values, groups = [0.0, 10.0, 30.0, 70.0, 150.0, 5.0], ["a", "b", "a", "c", "c", "c"]
    members = {group: [v for v, g in zip(values, groups, strict=True) if g == group] for group in groups}
    drawn = [[v for group in names for v in members[group]] for names in itertools.product(members, repeat=3)]
    means = np.array([np.mean(one) for one in drawn])
    assert interval(values, 0, groups) == {
        end: pytest.approx(np.quantile(means, share, method="inverted_cdf"))
        for end, share in (("low", 0.025), ("high", 0.975))
    }


def test_one_question_a_group_or_one_group_for_all_is_the_interval_of_the_values() -> None:
    values = [0.0, 10.0, 30.0, 70.0, 150.0]
    assert interval(values, 0, list("edcba")) == interval(values, 0, list("aaaaa")) == interval(values, 0)


def test_questions_about_one_context_are_drawn_together() -> None:
    examples = [Example(str(i), f"context {i // 2}", "", ()) for i in range(8)]
    values = [0.0, 0.0, 100.0, 100.0] * 2
    together = QuestionSet(examples, 0).interval(values)
    assert together == interval(values[::2], 0)
    alone = interval(values, 0)
    assert together["high"] - together["low"] > alone["high"] - alone["low"]


def test_no_values_have_no_interval() -> None:
    with pytest.raises(ValueError):
        interval([], seed=0)


def test_p_is_the_two_sided_binomial_tail_of_the_questions_that_differ() -> None:
    first = [100] * 9 + [0] * 2 + [100] * 5 + [0] * 4
    second = [0] * 9 + [100] * 2 + [100] * 5 + [0] * 4
    found = mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (9, 2)
    assert found["p"] == pytest.approx(2 * sum(comb(11, k) for k in range(3)) / 2**11)
    assert mcnemar(second, first)["p"] == found["p"]


def test_systems_that_agree_everywhere_do_not_differ() -> None:
    assert mcnemar([0, 100], [0, 100]) == {"only_first": 0, "only_second": 0, "p": 1}
