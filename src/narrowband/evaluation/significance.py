"""Intervals by resampling questions: of a system's mean, and of the difference between two systems on the same ones."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def interval(values: Sequence[float], seed: int) -> dict[str, float]:
    """95% percentile bootstrap interval, `low` and `high`, of the mean of `values` (Efron & Tibshirani 1993, chapter 13).

    For a paired comparison give the differences of the two systems, question by question.
    """
    generator = np.random.default_rng(seed)
    array = np.asarray(values, dtype=np.float64)
    means = np.concatenate(
        [array[generator.integers(len(array), size=(500, len(array)))].mean(1) for _ in range(RESAMPLES // 500)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}
