"""The sweeps behind the README's pictures: runs at every compression ratio or rate, and their results."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from narrowband.experiments.positions import ROWS as READER_ROWS
from narrowband.experiments.positions import reader_rows, reader_runs
from narrowband.experiments.queue import (
    STAGE,
    Experiments,
    Overrides,
    Rows,
    Runs,
    baseline_rows,
    rows_of,
    with_details,
    with_earlier,
)
from narrowband.experiments.real import (
    BIT_ROWS,
    PICTURES,
    ROWS,
    SYSTEMS,
    by_model,
    real_bit_rows,
    real_bit_runs,
    real_rows,
    real_runs,
)
from narrowband.params import EMBEDDINGS, InputError, Params
from narrowband.runtime.files import write_json

SWEPT_RATIOS = (2, 4, 8, 16, 32, 64)
WINDOWS = (16, 1)
"""Tokens per window; the README shows the first."""

REPEATED = (32, 64)
"""Compression ratios at which F1 falls; with the first of `WINDOWS`, these runs are repeated with random seeds 1 and 2."""

RATES = (8, 12, 14, 16, 20, 24, 32, 64, 256)
"""Bits per token that the codec and the other systems are fitted to."""

STATES, STATE_RATES = ("block-1", "block-2"), (64, 128, 256)
"""States that are sent in place of embeddings, after the bundled model's first and middle block, and their rates."""

BITS_PER_LATENT = 4
"""Bits per token over latents per token."""

BITS = Path("docs/bits.json")

QUESTIONS = 500
"""Test questions that systems are compared on at each rate."""

GRID = "latents of"
"""Part of the setting's name in rows whose latents are on fixed grids."""


class Axis(StrEnum):
    """What a sweep varies."""

    NUMBERS = "numbers"
    BITS = "bits"
    POSITIONS = "positions"
    REAL = "real"
    REAL_BITS = "real-bits"


class Sweep(NamedTuple):
    """One sweep: last stage of its runs, files for its rows and pictures, and functions for its runs and rows."""

    stage: str
    data: Path
    pictures: Callable[[Rows], dict[Path, Rows]]
    """The rows that each picture shows."""
    runs: Callable[[Params, int], Runs]
    """Overrides by name of the experiment, for the parameters in params.yaml and a base model's hidden size."""
    rows: Callable[[Experiments], Rows]
    chart: str
    """The function of `report/charts.py` that draws its pictures, if it has any."""

    def write(self, rows: Rows) -> list[Path]:
        """Write the rows, and draw the pictures; return the paths of the pictures.

        Raises:
            InputError: there are no rows.
        """
        if not rows:
            raise InputError(
                f"no run of this sweep has finished, so {self.data} stays as it is; queue them with --queue"
            )
        from narrowband.report import charts

        write_json(self.data, rows)
        drawn = []
        for picture, shown in self.pictures(rows).items():
            if shown:
                picture.parent.mkdir(exist_ok=True)
                getattr(charts, self.chart)(shown).save(picture)
                drawn.append(picture)
        return drawn


class SweepRun(NamedTuple):
    """One experiment of the sweep over numbers; `window` in tokens."""

    compression: int
    window: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the DVC experiment."""
        return f"sweep-{self.compression}x-window{self.window}-seed{self.seed}"


RUNS = (
    *(SweepRun(ratio, WINDOWS[0], 0) for ratio in SWEPT_RATIOS),
    *(SweepRun(ratio, WINDOWS[0], seed) for ratio in REPEATED for seed in (1, 2)),
    *(SweepRun(ratio, window, 0) for window in WINDOWS[1:] for ratio in SWEPT_RATIOS),
)


def sweep_runs(hidden: int) -> Runs:
    """Overrides of every run by the name of its experiment, for a base model of hidden size `hidden`."""
    return {
        run.name: {"compress_dim": hidden * run.window // run.compression, "window": run.window, "seed": run.seed}
        for run in RUNS
    }


def sweep_rows(experiments: Experiments) -> Rows:
    """A row for each finished run and system."""
    done = [run for run in RUNS if run.name in experiments.finished]
    found = with_details(experiments.only(run.name for run in done))
    return [row for run in done for row in rows_of(found, run.name, run._asdict(), SYSTEMS)]


class BitRun(NamedTuple):
    """One experiment of the sweep over bits; `rate` in bits per token."""

    rate: int
    source: str

    @property
    def name(self) -> str:
        """The name of the DVC experiment."""
        return f"bits-{self.rate}-" + ("" if self.source == EMBEDDINGS else f"{self.source}-") + "seed0"

    def overrides(self, hidden: int) -> Overrides:
        """One vector a token, and codecs and other systems fitted to the rate.

        Of an embedding few latents are sent: a few fine numbers tell tokens apart where many coarse ones don't (docs/log.md).
        States are in no table, so the rate is shared out among all their components.
        """
        own: Overrides = {"compress_dim": max(1, self.rate // BITS_PER_LATENT)}
        if self.source != EMBEDDINGS:
            own = {"source": self.source, "prompt.anchor": "codec", "compress_dim": hidden}
        return {
            **own,
            "window": 1,
            "latent_coding.kind": "entropy",
            "latent_coding.bits_per_token": self.rate,
            "baselines.questions": QUESTIONS,
            "seed": 0,
        }


BIT_RUNS = (
    *(BitRun(rate, EMBEDDINGS) for rate in RATES),
    *(BitRun(rate, source) for source in STATES for rate in STATE_RATES),
)


def bit_rows(experiments: Experiments) -> Rows:
    """The rows of `results/baselines.json` of all finished runs, without latents on fixed grids; equal settings appear once.

    After them come the rows in `BITS` of settings that none of these runs has; each row names its commit.
    """
    rows = baseline_rows(experiments, {run.name: {"seed": 0, "source": run.source} for run in BIT_RUNS})
    return with_earlier([row for row in rows if GRID not in row["setting"]], BITS, _setting_of)


def _setting_of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["source"], row["system"], row["setting"]


def _of_seed_0(rows: Rows, window: int) -> Rows:
    return [row for row in rows if row["seed"] == 0 and row["window"] == window]


SWEEPS = {
    Axis.NUMBERS: Sweep(
        STAGE,
        Path("docs/sweep.json"),
        lambda rows: {
            PICTURES / "f1-and-cosine.svg": _of_seed_0(rows, WINDOWS[0]),
            PICTURES / "f1-and-cosine-window-1.svg": _of_seed_0(rows, WINDOWS[1]),
        },
        lambda params, hidden: sweep_runs(hidden),
        sweep_rows,
        "f1_and_cosine_chart",
    ),
    Axis.BITS: Sweep(
        "baselines",
        BITS,
        lambda rows: {
            PICTURES / "f1-against-bits.svg": [row for row in rows if row["source"] == EMBEDDINGS],
            **{
                PICTURES / f"f1-against-bits-{one}.svg": [row for row in rows if row["source"] == one] for one in STATES
            },
        },
        lambda params, hidden: {run.name: run.overrides(hidden) for run in BIT_RUNS},
        bit_rows,
        "rate_chart",
    ),
    Axis.POSITIONS: Sweep(STAGE, READER_ROWS, lambda rows: {}, lambda params, hidden: reader_runs(), reader_rows, ""),
    Axis.REAL: Sweep(
        STAGE,
        ROWS,
        lambda rows: by_model("f1-and-cosine", [row for row in rows if not row["control"]]),
        real_runs,
        real_rows,
        "f1_and_cosine_chart",
    ),
    Axis.REAL_BITS: Sweep(
        "baselines",
        BIT_ROWS,
        lambda rows: by_model("f1-against-bits", rows),
        real_bit_runs,
        real_bit_rows,
        "rate_chart",
    ),
}
