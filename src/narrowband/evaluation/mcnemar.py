"""Whether two systems differ in exact match on the same questions."""

from collections.abc import Sequence

from scipy.stats import binomtest


def mcnemar(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Exact two-sided McNemar test of exact matches, 0 or 100 a question (McNemar 1947, Psychometrika 12:153).

    `only_first` and `only_second` count the questions that one system alone has right; under the null hypothesis
    either is binomial with a half of their sum.
    """
    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    differing = only_first + only_second
    p = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}
