"""The experiments on a real model: compression ratios, and at 16x the controls that tell kept information from a learned task."""

from pathlib import Path
from typing import Any, NamedTuple

from narrowband.evaluation.headline import TITLES
from narrowband.experiments.queue import Experiments, Rows, Runs, figures, with_details
from narrowband.params import Params
from narrowband.runtime.files import read_json

ROWS = Path("docs/real-models.json")
PICTURES = Path("docs/pictures")

SYSTEMS = tuple(TITLES)


class RealRun(NamedTuple):
    """One experiment: its compression ratio, its name if it is a control, and what the control changes."""

    compression: int
    control: str
    overrides: dict[str, str | int | float]

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
    """Overrides of every run by the name of its experiment; local files are named by absolute paths, which queued runs need."""
    named = {name: getattr(params, name) for name in ("base_model", "dataset", "test_dataset")}
    files = {name: str(Path(value).resolve()) for name, value in named.items() if value and Path(value).exists()}
    return {
        f"{model_name(params.base_model)}-{run.name}": {
            **files,
            "compress_dim": hidden * params.window // run.compression,
            **run.overrides,
        }
        for run in RUNS
    }


def real_rows(experiments: Experiments) -> Rows:
    """A row for each finished run and system, after the rows in `ROWS` of runs that are not among them.

    Runs take hours, so those of several commits are kept together; each row names its commit.
    """
    runs = {name: run for name in experiments.finished for run in RUNS if name.endswith(f"-{run.name}")}
    chosen = experiments._replace(finished={name: experiments.finished[name] for name in runs})
    rows = [
        row
        for name, metrics in with_details(chosen).finished.items()
        for row in _rows(name.removesuffix(f"-{runs[name].name}"), runs[name], metrics, experiments.commit_of(name))
    ]
    done = {_run_of(row) for row in rows}
    earlier = read_json(ROWS) if ROWS.exists() else []
    return sorted([row for row in earlier if _run_of(row) not in done] + rows, key=_run_of)


def _rows(model: str, run: RealRun, metrics: dict[str, Any], commit: str) -> Rows:
    about = {"model": model, "compression": run.compression, "control": run.control, "commit": commit}
    return [{**about, "system": system, **figures(metrics[system])} for system in SYSTEMS]


def _run_of(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["model"], row["control"], row["compression"]


def real_pictures(rows: Rows) -> dict[Path, Rows]:
    """A picture for each model, of its runs that are not controls."""
    return {
        PICTURES / f"f1-and-cosine-{model}.svg": [row for row in rows if row["model"] == model and not row["control"]]
        for model in dict.fromkeys(row["model"] for row in rows)
    }
