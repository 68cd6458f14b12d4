"""The sweep behind the README's picture: the committed parameters at every compression, and what came of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from narrowband.experiments.queue import Experiments
from narrowband.runtime.files import write_json

RATIOS = (2, 4, 8, 16, 32, 64)
SYSTEMS = ("pca", "phase1", "phase2")
DATA = Path("docs/sweep.json")
PICTURE = Path("docs/pictures/f1-and-cosine.svg")


def sweep_runs(vector_dim: int, seeds: Sequence[int] = (0,)) -> dict[str, dict[str, str | int | float]]:
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


def write_sweep(rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows to `docs/sweep.json`, and the picture that README shows."""
    from narrowband.report.charts import f1_and_cosine_chart

    write_json(DATA, rows)
    PICTURE.parent.mkdir(exist_ok=True)
    f1_and_cosine_chart([row for row in rows if row["seed"] == 0]).save(PICTURE)
