import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from narrowband.experiments.queue import METRICS, collect, command, enqueue, parse, read_result
from narrowband.params import InputError


def shown(name: str, state: str | None, metrics: dict[str, Any] | None) -> dict[str, Any]:
    data = None if metrics is None else {"metrics": metrics}
    revision = {"name": name, "rev": f"{name}-rev", "data": data}
    return {"name": name, "executor": state and {"state": state}, "revs": [revision]}


def test_only_what_has_finished_counts_and_what_failed_is_neither_finished_nor_waiting() -> None:
    inherited = {METRICS: {"data": {"pca": 1}}}  # the baseline's metrics, which DVC shows for what has none of its own
    experiments = [
        shown("queued", "success", {METRICS: {"data": {"pca": 2}}}),
        shown("here", None, {METRICS: {"data": {"pca": 3}}}),
        shown("failed", "failed", inherited),
        shown("running", "running", inherited),
        shown("next", "queued", inherited),
        shown("without", "success", {}),
        shown("unreadable", "success", {METRICS: {"error": {"type": "OSError"}}}),
        shown("broken", "success", None),
    ]
    found = parse([{"rev": "workspace"}, {"rev": "abc", "experiments": experiments}])
    origins = {name: ("abc", f"{name}-rev") for name in ("queued", "here")}
    assert found == (("abc",), {"queued": {"pca": 2}, "here": {"pca": 3}}, {"running", "next"}, origins)


def test_no_experiment_is_no_error() -> None:
    assert parse([{"rev": "workspace"}, {"rev": "abc", "experiments": None}]) == (("abc",), {}, frozenset(), {})


def test_the_command_is_what_a_person_types() -> None:
    assert (
        command({"compress_dim": 64, "phase2.steps": 1}) == "dvc exp run evaluate -S compress_dim=64 -S phase2.steps=1"
    )


STAGE = f"""
stages:
  evaluate:
    cmd: python run.py
    params: [f1, seed]
    metrics:
      - {METRICS}:
          cache: false
"""
RUN = f"""
import json, pathlib, sys, yaml
params = yaml.safe_load(pathlib.Path("params.yaml").read_text())
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("{METRICS}").write_text(json.dumps(params))
sys.exit(params["f1"] > 100)
"""


@pytest.mark.integration
def test_queued_experiments_are_waiting_then_finished_or_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")

    def run(*words: str) -> None:
        # No pipe: the queue's worker would hold it open long after its last experiment.
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    Path("dvc.yaml").write_text(STAGE)
    Path("run.py").write_text(RUN)
    Path("params.yaml").write_text("f1: 50\nseed: 0\n")
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    run("dvc", "repro", "-q")
    run("git", "add", "--all")
    run("git", "commit", "-q", "-m", "state")

    enqueue("good-seed1", {"f1": 60, "seed": 1})
    enqueue("bad-seed0", {"f1": 200, "seed": 0})
    assert collect(["HEAD"])[1:] == ({}, {"good-seed1", "bad-seed0"}, {})
    run("dvc", "exp", "run", "--run-all")
    assert collect(["HEAD"])[1:3] == ({"good-seed1": {"f1": 60, "seed": 1}}, frozenset())

    with pytest.raises(InputError, match=r"dvc exp run failed: .*good-seed1"):
        enqueue("good-seed1", {"f1": 61})
    with pytest.raises(InputError, match="dvc exp show failed"):
        collect(["no-such-revision"])

    # DVC's worker ends 10 s after its last experiment, and loses one that it is handed just then.
    deadline = time.monotonic() + 60
    while "0 active, 0 idle" not in subprocess.check_output(["dvc", "queue", "status"], text=True):
        assert time.monotonic() < deadline
        time.sleep(1)
    run("git", "commit", "-q", "--allow-empty", "-m", "next")
    enqueue("good-seed1", {"f1": 61, "seed": 1})
    enqueue("new-seed0", {"f1": 70})
    run("dvc", "exp", "run", "--run-all")
    newest = {"good-seed1": {"f1": 61, "seed": 1}, "new-seed0": {"f1": 70, "seed": 0}}
    both = collect(["HEAD", "HEAD~1"])
    assert both.finished == newest and collect(["HEAD~1", "HEAD"]).finished["good-seed1"]["f1"] == 60
    assert read_result(both, "good-seed1", METRICS)["f1"] == 61  # a name that two commits have experiments of
