"""The sweep behind the README's picture: the committed parameters at every compression, and what came of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrowband.experiments.queue import Experiments
from narrowband.runtime.files import write_json

RATIOS = (2, 4, 8, 16, 32, 64)
WINDOWS = (16, 1)
"""Tokens a window; the first is the one that the README shows."""

REPEATED = (8, 16, 32)
"""Compressions at which F1 falls, so that runs with the first of `WINDOWS` are repeated with the seeds 1 and 2."""

SYSTEMS = ("pca", "phase1", "phase2")
DATA = Path("docs/sweep.json")
PICTURES = {window: Path(f"docs/pictures/f1-and-cosine-window-{window}.svg") for window in WINDOWS}


class Run(NamedTuple):
    """One experiment of the sweep; `compression` is in numbers, `window` in tokens."""

    compression: int
    window: int
    seed: int

    @property
    def name(self) -> str:
        """The name under which DVC keeps it."""
        return f"sweep-{self.compression}x-window{self.window}-seed{self.seed}"

    def overrides(self, hidden: int) -> dict[str, str | int | float]:
        """Parameters that differ from `params.yaml`, for a base model of hidden size `hidden`."""
        return {"compress_dim": hidden * self.window // self.compression, "window": self.window, "seed": self.seed}


RUNS = (
    *(Run(ratio, window, 0) for window in WINDOWS for ratio in RATIOS),
    *(Run(ratio, WINDOWS[0], seed) for ratio in REPEATED for seed in (1, 2)),
)


def sweep_rows(experiments: Experiments) -> list[dict[str, Any]]:
    """A row for each finished run and system: compression, F1 with its 95% interval, and cosine."""
    return [
        {**run._asdict(), "system": system, **_figures(experiments.finished[run.name][system])}
        for run in RUNS
        if run.name in experiments.finished
        for system in SYSTEMS
    ]


def _figures(row: dict[str, Any]) -> dict[str, float]:
    names = ("f1", "em", "agreement", "cosine", "norm_ratio", "token_match")
    return {**{name: row[name] for name in names}, **row["f1_interval"]}


def write_sweep(rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows to `docs/sweep.json`, and for each window the picture of its runs with seed 0."""
    from narrowband.report.charts import f1_and_cosine_chart

    write_json(DATA, rows)
    for window, picture in PICTURES.items():
        if drawn := [row for row in rows if (row["window"], row["seed"]) == (window, 0)]:
            picture.parent.mkdir(exist_ok=True)
            f1_and_cosine_chart(drawn).save(picture)
