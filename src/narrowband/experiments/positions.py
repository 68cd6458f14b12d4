"""The experiments on fewer positions: tokens per position, and what each part of the reader's training and encoder buys."""

from typing import Any, NamedTuple

from narrowband.experiments.queue import DETAILS, Experiments, Overrides, Rows, Runs, figures, read_result

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

    That is the uncompressed model, and the untrained ways to read as few positions.
    """
    return [
        row
        for run in RUNS
        if run.name in experiments.finished
        for row in _rows(
            run,
            experiments.commit_of(run.name),
            experiments.finished[run.name],
            read_result(experiments, run.name, DETAILS),
        )
    ]


def _rows(run: ReaderRun, commit: str, metrics: dict[str, Any], details: dict[str, Any]) -> Rows:
    about = {"tokens_per_position": run.tokens_per_position, "ablation": run.ablation, "commit": commit}
    found = {name: {**metrics[name], **details[name]} for name in ("uncompressed", "reader")} | details[
        "fewer_positions"
    ]
    return [
        {**about, "system": system, **figures(row, FIGURES)}
        for system, row in found.items()
        if system == "reader" or not run.ablation
    ]
