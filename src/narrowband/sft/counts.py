"""Counts and rates of a run, and the gates that its pilot must pass."""

from collections import Counter
from collections.abc import Mapping
from statistics import mean, median
from typing import Any

from narrowband.data.words import words
from narrowband.params import Gates, InputError
from narrowband.sft.filters import ngrams, ran_on
from narrowband.sft.pool import FORMS

REASONS = (
    "length_limit",
    "empty",
    "delimiter",
    "unprintable",
    "repetition",
    "echo",
    "example_answer",
    "example_topic",
    "test_overlap",
    "lossy",
    "critic_instruction",
    "critic_pair",
    "surplus",
    "near_duplicate",
)
"""Why a completion is rejected, in the order of the checks; `surplus`: a good one beyond the number asked for."""


class Counts:
    """Rejected candidates by reason; of kept ones, types, who asked, and lengths and word sequences of the responses."""

    def __init__(self) -> None:
        self.kept: Counter[str] = Counter()  # by type
        self.asked_by: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.runaway = 0
        self._lengths: list[int] = []
        self._ngrams: dict[int, Counter[tuple[str, ...]]] = {n: Counter() for n in (1, 2, 3)}

    def add(self, record: Mapping[str, Any], reason: str | None) -> None:
        """Count one candidate: kept if `reason` is None, else rejected for that reason."""
        self.runaway += ran_on(record["completion"])
        if reason:
            self.rejected[reason] += 1
            return
        self.kept[record["instruction_type"]] += 1
        self.asked_by[record["instruction_source"]] += 1
        response = words(record["response"])
        self._lengths.append(len(response))
        for n, counts in self._ngrams.items():
            counts.update(ngrams(response, n))

    @property
    def candidates(self) -> int:
        """All completions so far."""
        return self.kept.total() + self.rejected.total()

    @property
    def shares(self) -> dict[str, tuple[int, int]]:
        """Part and whole: kept (surplus included), accepted by the critic, cut off at the token limit, run on."""
        good = self.kept.total() + self.rejected["surplus"]
        refused = self.rejected["critic_instruction"] + self.rejected["critic_pair"]
        accepted = good + self.rejected["near_duplicate"]
        return {
            "kept": (good, self.candidates),
            "critic": (accepted, accepted + refused),
            "length_limit": (self.rejected["length_limit"], self.candidates),
            "runaway": (self.runaway, self.candidates),
        }

    def check(self, gates: Gates) -> None:
        """Raise an InputError that names the first gate these candidates miss."""
        for name, (part, whole) in self.shares.items():
            share, gate = part / max(1, whole), getattr(gates, name)
            minimum = name in ("kept", "critic")
            if share < gate if minimum else share > gate:
                reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common() if count)
                raise InputError(
                    f"the pilot of {self.candidates} SFT records has {name} {share:.2f}, but data.gates.{name} asks for at "
                    f"{'least' if minimum else 'most'} {gate:g} (rejected: {reasons or 'none'}); look at what this base model "
                    "writes, or change the gate"
                )

    def figures(self) -> dict[str, Any]:
        """Counts, shares with Wilson intervals, lengths in words (see `words`), and shares of distinct n-grams."""
        ordered = sorted(self._lengths)
        return {
            "counts": {
                "kept": self.kept.total(),
                "rejected": dict(self.rejected),
                "types": {kind: self.kept[kind] for kind in FORMS},
                "sources": {who: self.asked_by[who] for who in ("pool", "model", "reading")},
            },
            "shares": {name: wilson(*counts) for name, counts in self.shares.items()},
            "response_words": {
                "mean": mean(ordered),
                "median": median(ordered),
                "p95": ordered[int(0.95 * (len(ordered) - 1))],
                "max": ordered[-1],
            },
            "distinct": {f"{n}": len(counts) / max(1, counts.total()) for n, counts in self._ngrams.items()},
        }


def wilson(part: int, whole: int) -> dict[str, float]:
    """A share with its 95% interval (Wilson 1927); 0 with the interval 0 to 1 where `whole` is 0."""
    if not whole:
        return {"share": 0.0, "low": 0.0, "high": 1.0}
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(part, whole).proportion_ci(method="wilson")
    return {"share": part / whole, "low": float(interval.low), "high": float(interval.high)}
