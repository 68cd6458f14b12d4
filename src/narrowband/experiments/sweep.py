"""The sweeps behind the README's pictures: the committed parameters at every compression or rate, and what came of it."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from narrowband.experiments.queue import STAGE, Experiments, read_result, with_details
from narrowband.params import InputError
from narrowband.runtime.files import write_json

RATIOS = (2, 4, 8, 16, 32, 64)
SYSTEMS = ("pca", "phase1", "phase2")
RATES = (2, 8, 12, 16, 24, 32, 64, 256)
"""Bits per token that codec and rivals are set to."""

QUESTIONS = 500
"""Test questions that systems are compared on at each rate."""

BASELINES = "results/baselines.json"
GRID = "latents of"
"""What stands in the setting of a row whose latents are on fixed grids."""

Runs = dict[str, dict[str, str | int | float]]
Rows = list[dict[str, Any]]


class Axis(StrEnum):
    """What a sweep varies."""

    NUMBERS = "numbers"
    BITS = "bits"


class Sweep(NamedTuple):
    """One sweep: the last stage of its runs, where its rows and picture go, its runs by `vector_dim`, and its rows."""

    stage: str
    data: Path
    picture: Path
    runs: Callable[[int], Runs]
    rows: Callable[[Experiments], Rows]
    chart: str
    """The function of `report/charts.py` that draws it."""

    def write(self, rows: Rows) -> None:
        """Write rows, and the picture of those of seed 0.

        Raises:
            InputError: there are no rows.
        """
        if not rows:
            raise InputError(
                f"no run of this sweep has finished, so {self.data} stays as it is; queue them with --queue"
            )
        from narrowband.report import charts

        write_json(self.data, rows)
        self.picture.parent.mkdir(exist_ok=True)
        getattr(charts, self.chart)([row for row in rows if row["seed"] == 0]).save(self.picture)


def sweep_runs(vector_dim: int, seeds: Sequence[int] = (0,)) -> Runs:
    """Overrides of every run by the name of its experiment."""
    return {
        run_name(ratio, seed): {"compress_dim": vector_dim // ratio, "seed": seed} for ratio in RATIOS for seed in seeds
    }


def run_name(ratio: int, seed: int) -> str:
    """The name under which DVC keeps a run."""
    return f"sweep-{ratio}x-seed{seed}"


def sweep_rows(experiments: Experiments, seeds: Sequence[int] = (0,)) -> list[dict[str, Any]]:
    """A row for each finished run and system: compression, F1 with its 95% interval, and cosine."""
    rows = []
    for ratio in RATIOS:
        for seed in seeds:
            if metrics := experiments.finished.get(run_name(ratio, seed)):
                rows += [
                    {"compression": ratio, "seed": seed, "system": system, **_figures(metrics[system])}
                    for system in SYSTEMS
                ]
    return rows


def _figures(row: dict[str, Any]) -> dict[str, float]:
    names = ("f1", "em", "agreement", "cosine", "norm_ratio", "token_match")
    return {**{name: row[name] for name in names}, **row["f1_interval"]}


def bit_runs(seeds: Sequence[int] = (0,)) -> Runs:
    """Overrides of every run by the name of its experiment: codecs are trained at each rate, and rivals set to it."""
    return {
        bit_run_name(rate, seed): {
            "latent_coding.kind": "entropy",
            "latent_coding.bits_per_token": rate,
            "baselines.questions": QUESTIONS,
            "seed": seed,
        }
        for rate in RATES
        for seed in seeds
    }


def bit_run_name(rate: float, seed: int) -> str:
    """The name under which DVC keeps a run."""
    return f"bits-{rate:g}-seed{seed}"


def bit_rows(found: Callable[[str], Rows], finished: Sequence[str], seeds: Sequence[int] = (0,)) -> Rows:
    """The rows of `baselines` of each finished run, whatever is entropy-coded at its rate, and what has one rate only once.

    `found` gives those of an experiment by its name.
    """
    rows: dict[tuple[int, str, str], dict[str, Any]] = {}
    for seed in seeds:
        for name in (bit_run_name(rate, seed) for rate in RATES):
            for row in found(name) if name in finished else []:
                if GRID not in row["setting"]:
                    rows.setdefault((seed, row["system"], row["setting"]), {"seed": seed, **row})
    return list(rows.values())


SWEEPS = {
    Axis.NUMBERS: Sweep(
        STAGE,
        Path("docs/sweep.json"),
        Path("docs/pictures/f1-and-cosine.svg"),
        sweep_runs,
        lambda experiments: sweep_rows(with_details(experiments)),
        "f1_and_cosine_chart",
    ),
    Axis.BITS: Sweep(
        "baselines",
        Path("docs/bits.json"),
        Path("docs/pictures/f1-against-bits.svg"),
        lambda vector_dim: bit_runs(),
        lambda experiments: bit_rows(lambda name: read_result(name, BASELINES)["rows"], [*experiments.finished]),
        "rate_chart",
    ),
}
