"""DVC experiments by name: queue those that are missing, read the metrics of those that have finished."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from narrowband.params import InputError

STAGE = "evaluate"
"""The stage that an experiment runs as far as, unless it says otherwise."""

METRICS = "metrics/evaluate.json"
DETAILS = "results/evaluate.json"


class Experiments(NamedTuple):
    """Experiments that start from one commit: metrics of the finished ones, names of those queued or running."""

    baseline: str
    finished: dict[str, dict[str, Any]]
    waiting: frozenset[str]


def command(overrides: Mapping[str, str | int | float]) -> str:
    """What a person types to run one experiment as far as its evaluation."""
    return " ".join(["dvc exp run", STAGE, *(f"-S {name}={value}" for name, value in overrides.items())])


def collect(revision: str) -> Experiments:
    """The experiments that start from `revision`, a commit, branch or tag.

    Raises:
        InputError: DVC can't show them, because there is no such revision, for one.
    """
    return parse(json.loads(run_dvc("exp", "show", "--json", "--rev", revision)))


def with_details(experiments: Experiments) -> Experiments:
    """`experiments`, each finished one's metrics with the intervals of its `results/evaluate.json` beside them.

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
    """Queue those of `runs`, overrides by name, that have neither finished nor wait, as far as `stage`; their names."""
    names = [name for name in runs if name not in experiments.finished and name not in experiments.waiting]
    for name in names:
        enqueue(name, runs[name], stage)
    return names


def parse(shown: Sequence[Mapping[str, Any]]) -> Experiments:
    """What `dvc exp show --json --rev` says of its one commit, which comes after the workspace.

    DVC lists a failed, running or queued experiment with the metrics of the commit it starts from: those don't count.
    """
    baseline = shown[-1]
    finished, waiting = {}, set()
    for experiment in baseline["experiments"] or []:
        state = (experiment["executor"] or {"state": "success"})["state"]  # none if it was not queued
        metrics = (experiment["revs"][0]["data"] or {}).get("metrics", {}).get(METRICS, {})
        if state in ("queued", "running"):
            waiting.add(experiment["name"])
        elif state == "success" and "data" in metrics:
            finished[experiment["name"]] = metrics["data"]
    return Experiments(baseline["rev"], finished, frozenset(waiting))


def enqueue(name: str, overrides: Mapping[str, str | int | float], stage: str = STAGE) -> None:
    """Queue one experiment, from the commit that is checked out, as far as `stage`.

    Raises:
        InputError: DVC refuses it, or its workers would not find the `dvc` that they call by name.
    """
    if not shutil.which("dvc"):
        raise InputError(
            "dvc is not on the PATH, so a queued experiment would never start; run source .venv/bin/activate first"
        )
    settings = [word for key, value in overrides.items() for word in ("--set-param", f"{key}={value}")]
    run_dvc("exp", "run", "--queue", "--name", name, *settings, stage)


def run_dvc(*arguments: str) -> str:
    """What a `dvc` command prints.

    Raises:
        InputError: it fails; the sentence has the first line of its reason.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0].removeprefix("ERROR: ")
        raise InputError(f"dvc {' '.join(arguments[:2])} failed: {reason}")
    return done.stdout
