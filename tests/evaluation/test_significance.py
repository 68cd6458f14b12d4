from math import comb

import pytest

from narrowband.evaluation.mcnemar import mcnemar


def test_p_is_the_two_sided_binomial_tail_of_the_questions_that_differ() -> None:
    first = [100] * 9 + [0] * 2 + [100] * 5 + [0] * 4
    second = [0] * 9 + [100] * 2 + [100] * 5 + [0] * 4
    found = mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (9, 2)
    assert found["p"] == pytest.approx(2 * sum(comb(11, k) for k in range(3)) / 2**11)
    assert mcnemar(second, first)["p"] == found["p"]


def test_systems_that_agree_everywhere_do_not_differ() -> None:
    assert mcnemar([0, 100], [0, 100]) == {"only_first": 0, "only_second": 0, "p": 1}
