"""All systems on the same test questions: the table that the project is about."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from rich.console import Console

from narrowband.codec.codec import Codec
from narrowband.data.squad import Example
from narrowband.evaluation.answer import answer
from narrowband.evaluation.mcnemar import mcnemar
from narrowband.evaluation.significance import interval
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime.progress import bar

UNCOMPRESSED_BITS = 16
"""Bits of one component of an embedding that is sent as it is."""


class Comparison(NamedTuple):
    """What goes into `metrics/evaluate.json`, and each system's predictions by question id."""

    metrics: dict[str, Any]
    predictions: dict[str, dict[str, str]]


def compare(
    lm: FrozenLM, systems: Mapping[str, Codec | None], examples: Sequence[Example], params: Params, console: Console
) -> Comparison:
    """Evaluate every system; F1 with its 95% interval and EM in percent.

    `f1_gain` is the mean difference in F1 to the previous compressed system, question by question; `mcnemar` tests
    every two systems on their exact matches. Where some questions are unanswerable, each kind has its own F1 too.
    """
    answered = {}
    with bar("questions", len(examples) * len(systems), console) as advance:
        for name, codec in systems.items():
            answered[name] = answer(lm, codec, examples, params, advance=advance)
    metrics: dict[str, Any] = {}
    for name, result in answered.items():
        f1 = [score.f1 for score in result.scores]
        metrics[name] = {"f1": result.f1, "em": result.em, "f1_interval": interval(f1, params.seed), **result.quality}
        metrics[name] |= _by_answerability(examples, f1)
    for before, after in (("pca", "phase1"), ("phase1", "phase2")):
        gains = [b.f1 - a.f1 for a, b in zip(answered[before].scores, answered[after].scores, strict=True)]
        metrics[after]["f1_gain"] = sum(gains) / len(gains)
        metrics[after]["f1_gain_interval"] = interval(gains, params.seed)
    exact = {name: [score.em for score in result.scores] for name, result in answered.items()}
    metrics["mcnemar"] = {f"{a}_{b}": mcnemar(exact[a], exact[b]) for a, b in combinations(exact, 2)}
    metrics["compression_ratio"] = params.vector_dim(lm.hidden_size) / params.compress_dim
    metrics["bits_per_token"] = answered["phase2"].bits_per_token
    metrics["uncompressed"]["bits_per_token"] = UNCOMPRESSED_BITS * lm.hidden_size
    metrics["f1_retained"] = answered["phase2"].f1 / max(answered["uncompressed"].f1, 1e-9)
    metrics["questions"] = len(examples)
    metrics["truncated_share"] = answered["uncompressed"].truncated_share
    return Comparison(metrics, {name: result.predictions for name, result in answered.items()})


def _by_answerability(examples: Sequence[Example], f1: Sequence[float]) -> dict[str, float]:
    """Mean F1 of answerable and of unanswerable questions, if there are both."""
    kinds: dict[str, list[float]] = {"answerable_f1": [], "unanswerable_f1": []}
    for example, value in zip(examples, f1, strict=True):
        kinds["answerable_f1" if example.answers else "unanswerable_f1"].append(value)
    return {kind: sum(values) / len(values) for kind, values in kinds.items()} if all(kinds.values()) else {}
