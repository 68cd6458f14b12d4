"""Rounding metrics to their meaningful digits, so that `dvc metrics diff` shows no differences between CPUs."""

from collections.abc import Mapping
from typing import Any

PERCENTAGES = (
    *("f1", "em", "agreement", "token_match", "seen_match", "unseen_match", "answerable_f1", "unanswerable_f1"),
    *(
        "uncompressed_f1",
        "f1_before",
        "f1_after",
        "f1_uncompressed",
        "low",
        "high",
        "f1_gain",
        "gain_low",
        "bos_gain_low",
    ),
    *("f1_over_uncompressed", "f1_over_phase1", "agreement_over_phase1", "excess_over_phase1"),
)
DECIMALS = dict.fromkeys((*PERCENTAGES, "bits_per_token"), 2)
SIGNIFICANT = {"mse", "p"}
OTHERWISE = 4


def rounded(content: Any, name: str = "") -> Any:
    """`content` with every float rounded by the name of its key; members of a list by the name of the list.

    Percentages and bits get 2 decimals, `mse` and `p` 3 significant digits, everything else (cosines, shares) 4 decimals.
    """
    if isinstance(content, Mapping):
        return {key: rounded(value, key) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [rounded(value, name) for value in content]
    if not isinstance(content, float):
        return content
    if name in SIGNIFICANT:
        return float(f"{content:.3g}")
    return round(content, DECIMALS.get(name, OTHERWISE))
