"""DVC experiments by name: queue those that are missing, read the metrics of those that have finished."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from narrowband.params import InputError

STAGE = "evaluate"
"""The default last stage of an experiment."""

Runs = dict[str, dict[str, str | int | float]]
"""Overrides of parameters by name of the experiment."""

Rows = list[dict[str, Any]]
"""Results as they are committed: one row for each run and system."""

METRICS = "metrics/evaluate.json"
DETAILS = "results/evaluate.json"


class Experiments(NamedTuple):
    """Experiments that start from one commit: metrics of the finished ones, names of those queued or running."""

    baseline: str
    finished: dict[str, dict[str, Any]]
    waiting: frozenset[str]


def command(overrides: Mapping[str, str | int | float]) -> str:
    """The command that runs one experiment up to its evaluation."""
    return " ".join(["dvc exp run", STAGE, *(f"-S {name}={value}" for name, value in overrides.items())])


def collect(revision: str) -> Experiments:
    """The experiments that start from `revision`, a commit, branch or tag.

    Raises:
        InputError: DVC can't show them, for example because there is no such revision.
    """
    return parse(json.loads(run_dvc("exp", "show", "--json", "--rev", revision)))


def with_details(experiments: Experiments) -> Experiments:
    """`experiments` with each finished one's `results/evaluate.json` merged into its metrics.

    Raises:
        InputError: a finished experiment lacks that file.
    """
    finished = {name: _merged(metrics, read_result(name, DETAILS)) for name, metrics in experiments.finished.items()}
    return experiments._replace(finished=finished)


def _merged(metrics: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    rows = {name: {**row, **details.get(name, {})} for name, row in metrics.items() if isinstance(row, Mapping)}
    return {**metrics, **rows}


def read_result(name: str, path: str) -> dict[str, Any]:
    """The JSON file at `path` of a finished experiment.

    Raises:
        InputError: it has none.
    """
    import dvc.api
    from dvc.exceptions import DvcException

    try:
        content: dict[str, Any] = json.loads(dvc.api.read(path, rev=name))
    except (DvcException, OSError, ValueError):
        raise InputError(
            f"experiment {name} has no {path}; remove it (dvc exp remove {name}) and run it again"
        ) from None
    return content


def queue_missing(
    runs: Mapping[str, Mapping[str, str | int | float]], experiments: Experiments, stage: str = STAGE
) -> list[str]:
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
    finished, waiting = {}, set()
    for experiment in baseline["experiments"] or []:
        state = (experiment["executor"] or {"state": "success"})["state"]  # null if it was not queued
        metrics = (experiment["revs"][0]["data"] or {}).get("metrics", {}).get(METRICS, {})
        if state in ("queued", "running"):
            waiting.add(experiment["name"])
        elif state == "success" and "data" in metrics:
            finished[experiment["name"]] = metrics["data"]
    return Experiments(baseline["rev"], finished, frozenset(waiting))


def enqueue(name: str, overrides: Mapping[str, str | int | float], stage: str = STAGE) -> None:
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
    """Run a `dvc` command and return what it prints.

    Raises:
        InputError: it fails; the message has the first line of DVC's reason.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")
        raise InputError(f"dvc {' '.join(arguments[:2])} failed: {reason}")
    return done.stdout
