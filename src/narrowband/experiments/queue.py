"""DVC experiments by name: queue those that are missing, read the metrics of those that have finished."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from narrowband.experiments.revisions import read_json_at
from narrowband.params import InputError
from narrowband.runtime.files import read_json

STAGE = "evaluate"
"""The default last stage of an experiment."""

Overrides = dict[str, str | int | float]
"""Values of parameters by dotted name."""

Runs = dict[str, Overrides]
"""Overrides of parameters by name of the experiment."""

Rows = list[dict[str, Any]]
"""Results as they are committed: one row for each run and system."""

FIGURES = (
    *("f1", "em", "agreement", "cosine", "norm_ratio", "token_match", "relative_error", "seen", "unseen"),
    *("f1_gain", "f1_gain_interval"),
)
"""What committed rows tell of a system."""

METRICS = "metrics/evaluate.json"
DETAILS = "results/evaluate.json"
BASELINES = "results/baselines.json"


class Origin(NamedTuple):
    """Where a finished experiment comes from: the commit that it starts from, and its own revision."""

    commit: str
    revision: str


class Experiments(NamedTuple):
    """Experiments that start from `commits`: metrics and origin of the finished ones, names of those queued or running."""

    commits: tuple[str, ...]
    finished: dict[str, dict[str, Any]]
    waiting: frozenset[str]
    origins: dict[str, Origin]

    def commit_of(self, name: str) -> str:
        """The first 12 digits of the commit that a finished experiment starts from."""
        return self.origins[name].commit[:12]

    def only(self, names: Iterable[str]) -> "Experiments":
        """The same with the finished experiments `names` alone."""
        return self._replace(finished={name: self.finished[name] for name in names})


def figures(row: Mapping[str, Any], names: Sequence[str] = FIGURES) -> dict[str, Any]:
    """Those of `names` that `row` has, and the ends of its 95% interval as `low` and `high`."""
    return {**{name: row[name] for name in names if name in row}, **row["f1_interval"]}


def rows_of(
    experiments: Experiments,
    name: str,
    about: Mapping[str, Any],
    systems: Iterable[str],
    names: Sequence[str] = FIGURES,
) -> Rows:
    """A row for each of `systems` of a finished run: what is told `about` the run, its commit, and the figures `names`."""
    about = {**about, "commit": experiments.commit_of(name)}
    found = experiments.finished[name]
    return [{**about, "system": system, **figures(found[system], names)} for system in systems]


def command(overrides: Overrides) -> str:
    """The command that runs one experiment up to its evaluation."""
    return " ".join(["dvc exp run", STAGE, *(f"-S {name}={value}" for name, value in overrides.items())])


def collect(revisions: Sequence[str]) -> Experiments:
    """The experiments that start from `revisions`, each a commit, branch or tag.

    Raises:
        InputError: DVC can't show them, for example because there is no such revision.
    """
    parts = [parse(json.loads(run_dvc("exp", "show", "--json", "--rev", revision))) for revision in revisions]
    return reduce(_with_earlier, parts)


def _with_earlier(newer: Experiments, older: Experiments) -> Experiments:
    """All experiments of both; of those with the same name, the one in `newer`."""
    return Experiments(
        newer.commits + older.commits,
        older.finished | newer.finished,
        newer.waiting | older.waiting,
        older.origins | newer.origins,
    )


def with_details(experiments: Experiments) -> Experiments:
    """`experiments` with each finished one's `results/evaluate.json` merged into its metrics, system by system.

    Raises:
        InputError: a finished experiment lacks that file.
    """
    finished = {
        name: _merged(metrics, read_result(experiments, name, DETAILS))
        for name, metrics in experiments.finished.items()
    }
    return experiments._replace(finished=finished)


def _merged(metrics: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    rows = {name: {**row, **details.get(name, {})} for name, row in metrics.items() if isinstance(row, Mapping)}
    return {**details, **metrics, **rows}


def read_result(experiments: Experiments, name: str, path: str) -> dict[str, Any]:
    """The JSON file at `path` of the finished experiment `name`.

    Raises:
        InputError: it has none.
    """
    try:
        content: dict[str, Any] = read_json_at([path], experiments.origins[name].revision)[path]
    except InputError:
        raise InputError(
            f"experiment {name} has no {path}; remove it (dvc exp remove {name}) and run it again"
        ) from None
    return content


def baseline_rows(experiments: Experiments, runs: Mapping[str, Mapping[str, Any]]) -> Rows:
    """The rows of `results/baselines.json` of the finished ones of `runs`, with what `runs` tells about each, and its commit.

    Of runs about which the same is told, equal settings of a system appear once, from the first.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name in (name for name in runs if name in experiments.finished):
        about = {**runs[name], "commit": experiments.commit_of(name)}
        for row in read_result(experiments, name, BASELINES)["rows"]:
            rows.setdefault((*runs[name].values(), row["system"], row["setting"]), {**about, **row})
    return list(rows.values())


def with_earlier(rows: Rows, path: Path, key: Callable[[Mapping[str, Any]], Any]) -> Rows:
    """`rows`, then those in the file at `path`, if there is one, whose `key` none of `rows` has."""
    done = {key(row) for row in rows}
    return [*rows, *(row for row in (read_json(path) if path.exists() else []) if key(row) not in done)]


def queue_missing(runs: Runs, experiments: Experiments, stage: str = STAGE) -> list[str]:
    """Queue those of `runs` (overrides by name) that are neither finished nor waiting, up to `stage`; return their names."""
    names = [name for name in runs if name not in experiments.finished and name not in experiments.waiting]
    for name in names:
        enqueue(name, runs[name], stage)
    return names


def parse(shown: Sequence[Mapping[str, Any]]) -> Experiments:
    """The experiments in the output of `dvc exp show --json --rev`: its last entry is the commit.

    DVC lists a failed, running or queued experiment with the metrics of the commit that it starts from; these are ignored.
    """
    baseline = shown[-1]
    finished, waiting, origins = {}, set(), {}
    for experiment in baseline["experiments"] or []:
        state = (experiment["executor"] or {"state": "success"})["state"]  # null if it was not queued
        revision = experiment["revs"][0]
        metrics = (revision["data"] or {}).get("metrics", {}).get(METRICS, {})
        if state in ("queued", "running"):
            waiting.add(experiment["name"])
        elif state == "success" and "data" in metrics:
            finished[experiment["name"]] = metrics["data"]
            origins[experiment["name"]] = Origin(baseline["rev"], revision["rev"])
    return Experiments((baseline["rev"],), finished, frozenset(waiting), origins)


def enqueue(name: str, overrides: Overrides, stage: str = STAGE) -> None:
    """Queue one experiment on the checked-out commit, up to `stage`.

    Raises:
        InputError: DVC refuses it, or `dvc` is not on the PATH, where DVC's workers look for it.
    """
    if not shutil.which("dvc"):
        raise InputError(
            "dvc is not on the PATH, so a queued experiment would never start; run source .venv/bin/activate first"
        )
    settings = [word for key, value in overrides.items() for word in ("--set-param", f"{key}={value}")]
    run_dvc("exp", "run", "--queue", "--name", name, *settings, stage)


def run_dvc(*arguments: str) -> str:
    """Run a `dvc` command and return what it prints; see `output_of`."""
    called = f"dvc {' '.join(arguments[:2])}"
    return output_of([sys.executable, "-m", "dvc", *arguments], called, "correct that and run the command again")


def output_of(command: Sequence[str], called: str, fix: str) -> str:
    """Run a command, `called` so in messages, and return what it prints.

    Raises:
        InputError: it fails; the message has the first line of its reason, and `fix`.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise InputError(f"{called} failed: {reason.removeprefix('ERROR: ').removeprefix('fatal: ')}; {fix}")
    return done.stdout
