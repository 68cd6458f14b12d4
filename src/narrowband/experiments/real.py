"""The experiments on a real model: ratios, the controls that tell kept information from a learned task, and measured bits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from narrowband.evaluation.headline import TITLES
from narrowband.experiments.queue import (
    Experiments,
    Overrides,
    Rows,
    Runs,
    baseline_rows,
    rows_of,
    with_details,
    with_earlier,
)
from narrowband.params import Params

ROWS = Path("docs/real-models.json")
BIT_ROWS = Path("docs/real-models-bits.json")
PICTURES = Path("docs/pictures")

SYSTEMS = tuple(TITLES)

RATES = (64, 32, 128)
"""Bits per token that both phases are trained at, in addition to the run at 16x on fixed grids."""

BIT_RUNS = (*(f"{rate}-bits" for rate in RATES), "16x-bits")
"""The ends of their names; of settings that several runs have, the first's count, which are trained at that rate."""

QUESTIONS = 60
"""Test questions that ways to send embeddings are compared on."""


class RealRun(NamedTuple):
    """One experiment: its compression ratio, its name if it is a control, and what the control changes."""

    compression: int
    control: str
    overrides: Overrides

    @property
    def name(self) -> str:
        """The end of the experiment's name, after the model's."""
        return f"{self.compression}x" + (f"-{self.control}" if self.control else "")


RUNS = (
    *(RealRun(ratio, "", {}) for ratio in (4, 16, 8, 2)),
    RealRun(1, "full-rate", {}),
    RealRun(16, "kl-alone", {"loss.phase2.cross_entropy": 0}),
    RealRun(16, "prompt-tokens-alone", {"phase1.vocabulary_share": 0}),
    RealRun(16, "layernorm", {"adapter.kind": "layernorm"}),
    RealRun(16, "layernorm-token", {"adapter.kind": "layernorm", "magnitude": "token"}),
)
"""In the order in which they are queued."""


def model_name(base_model: str) -> str:
    """The last part of a base model's path or hub id, in lower case, without `.gguf` and revision."""
    return Path(base_model).name.partition("@")[0].lower().removesuffix(".gguf")


def real_runs(params: Params, hidden: int) -> Runs:
    """Overrides of every run by the name of its experiment."""
    return {
        f"{model_name(params.base_model)}-{run.name}": {
            **_files(params),
            "compress_dim": hidden * params.window // run.compression,
            **run.overrides,
        }
        for run in RUNS
    }


def real_bit_runs(params: Params, hidden: int) -> Runs:
    """Overrides of the runs at measured bits, all at 16x, by the name of the experiment."""
    at_16: Overrides = {
        **_files(params),
        "compress_dim": hidden * params.window // 16,
        "baselines.questions": QUESTIONS,
    }
    coded: Runs = {
        f"{rate}-bits": {"latent_coding.kind": "entropy", "latent_coding.bits_per_token": rate} for rate in RATES
    }
    return {f"{model_name(params.base_model)}-{end}": at_16 | coded.get(end, {}) for end in BIT_RUNS}


def _files(params: Params) -> Overrides:
    """Local files by absolute paths, which queued runs need."""
    named = {name: getattr(params, name) for name in ("base_model", "dataset", "test_dataset")}
    return {name: str(Path(value).resolve()) for name, value in named.items() if value and Path(value).exists()}


def real_rows(experiments: Experiments) -> Rows:
    """A row for each finished run and system, after the rows in `ROWS` of runs that are not among them.

    Runs take hours, so those of several commits are kept together; each row names its commit.
    """
    runs = {name: run for name in experiments.finished for run in RUNS if name.endswith(f"-{run.name}")}
    found = with_details(experiments.only(runs))
    rows = [row for name, run in runs.items() for row in rows_of(found, name, _about(name, run), SYSTEMS)]
    return sorted(with_earlier(rows, ROWS, _run_of), key=_run_of)


def real_bit_rows(experiments: Experiments) -> Rows:
    """The rows of `results/baselines.json` of all finished runs, before those in `BIT_ROWS` that are not among them."""
    ends = [(name, end) for end in BIT_RUNS for name in experiments.finished if name.endswith(f"-{end}")]
    rows = baseline_rows(experiments, {name: {"model": name.removesuffix(f"-{end}")} for name, end in ends})
    return with_earlier(rows, BIT_ROWS, _setting_of)


def by_model(picture: str, rows: Rows) -> dict[Path, Rows]:
    """The rows of each model, which its picture shows; `picture` begins the files' names."""
    models = dict.fromkeys(row["model"] for row in rows)
    return {PICTURES / f"{picture}-{one}.svg": [row for row in rows if row["model"] == one] for one in models}


def _setting_of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["model"], row["system"], row["setting"]


def _about(name: str, run: RealRun) -> dict[str, Any]:
    return {"model": name.removesuffix(f"-{run.name}"), "compression": run.compression, "control": run.control}


def _run_of(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["model"], row["control"], row["compression"]
