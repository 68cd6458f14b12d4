"""Whether results differ by more than the choice of questions: bootstrap intervals and McNemar's test."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
BATCH = 500
"""Resamples held in memory at a time."""


def interval(values: Sequence[float], seed: int) -> dict[str, float]:
    """95% percentile bootstrap interval, `low` and `high`, of the mean of `values` (Efron & Tibshirani 1993, chapter 13).

    For a paired comparison give the differences of the two systems, question by question. Values that are all equal, or
    a single one, have an interval of no width.

    Raises:
        ValueError: there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.min() == array.max():
        return {"low": float(array[0]), "high": float(array[0])}
    from scipy.stats import bootstrap  # slow to import

    generator = np.random.default_rng(seed)
    found = bootstrap((array,), np.mean, n_resamples=RESAMPLES, batch=BATCH, method="percentile", rng=generator)
    return {"low": float(found.confidence_interval.low), "high": float(found.confidence_interval.high)}


def mcnemar(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Exact two-sided McNemar test of exact matches, 0 or 100 a question (McNemar 1947, Psychometrika 12:153).

    `only_first` and `only_second` count the questions that one system alone has right; under the null hypothesis
    each is binomial with probability 1/2 and their sum as the number of trials.
    """
    from scipy.stats import binomtest  # slow to import

    only_first = sum(a > b for a, b in zip(first, second, strict=True))
    only_second = sum(a < b for a, b in zip(first, second, strict=True))
    differing = only_first + only_second
    p = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}
