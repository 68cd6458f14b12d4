"""The experiments on fewer positions: tokens per position, and what each part of the reader's training and encoder buys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from narrowband.experiments.queue import Experiments, Overrides, Rows, Runs, rows_of, with_details, with_earlier

ROWS = Path("docs/positions.json")

FIGURES = ("f1", "em", "agreement", "positions_ratio", "bits_per_token")


class ReaderRun(NamedTuple):
    """One experiment: context tokens per position, and if it is an ablation, its name and what it changes."""

    tokens_per_position: int
    ablation: str
    overrides: Overrides

    @property
    def name(self) -> str:
        """The name of the DVC experiment."""
        return f"reader-k{self.tokens_per_position}" + (f"-{self.ablation}" if self.ablation else "")


SHORT: Overrides = {"reader.pretrain_steps": 300, "reader.steps": 300, "reader.evaluate_every": 300}
"""An eighth of the training, with which ablations are compared."""

BLOCKS: Overrides = {"reader.encoder": "pretrained"}
"""Beside the embeddings, states of a copy of the base model."""

RUNS = (
    *(ReaderRun(k, "", {}) for k in (2, 4, 8)),
    ReaderRun(4, "short", SHORT),
    ReaderRun(4, "short-answers-alone", {**SHORT, "reader.pretrain_steps": 0, "reader.steps": 600}),
    ReaderRun(4, "short-blocks", {**SHORT, **BLOCKS}),
    ReaderRun(4, "short-two-blocks", {**SHORT, **BLOCKS, "reader.depth": 2}),
    ReaderRun(4, "short-scratch", {**SHORT, "reader.encoder": "scratch"}),
)
"""In the order in which they are queued."""


def reader_runs() -> Runs:
    """Overrides of every run by the name of its experiment."""
    return {run.name: {"reader.tokens_per_position": run.tokens_per_position, **run.overrides} for run in RUNS}


def reader_rows(experiments: Experiments) -> Rows:
    """Rows of all finished runs: the reader, and beside it, unless the run is an ablation, what it is compared with.

    That is the uncompressed model, and the untrained ways to read as few positions. Rows in `ROWS` of runs that are not among
    them stay, sorted in.
    """
    found = with_details(experiments.only(run.name for run in RUNS if run.name in experiments.finished))
    rows = [row for run in RUNS if run.name in found.finished for row in _rows(found, run)]
    return sorted(with_earlier(rows, ROWS, _row_of), key=_run_of)


def _row_of(row: Mapping[str, Any]) -> tuple[int, str, str]:
    return *_run_of(row), row["system"]


def _run_of(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["tokens_per_position"], row["ablation"]


def _rows(experiments: Experiments, run: ReaderRun) -> Rows:
    about = {"tokens_per_position": run.tokens_per_position, "ablation": run.ablation}
    metrics = experiments.finished[run.name]
    untrained = metrics["fewer_positions"]
    flat = experiments._replace(finished={run.name: metrics | untrained})
    systems = ("reader",) if run.ablation else ("uncompressed", "reader", *untrained)
    return rows_of(flat, run.name, about, systems, FIGURES)
