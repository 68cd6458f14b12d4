"""Stages that are killed, stopped or out of disk space end as undisturbed ones, to the byte; on other threads within tolerance."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from random import Random

import pytest
from safetensors import safe_open
from tiny_project import ROOT, STAGES, contents, copied, finish, finish_all, make_project, start, warm_up

from narrowband.experiments.verify import compare_metrics, read_tolerances

KILLED = (*STAGES, "pretrain_base")
MOMENTS = {
    "check": 2,
    "generate_data": 4,
    "uncompressed": 2,
    "references": 2,
    "fit_pca": 2,
    "train_phase1": 4,
    "train_phase2": 4,
    "train_reader": 3,
    "evaluate": 3,
    "baselines": 2,
    "diagnose": 2,
    "pretrain_base": 3,
}
"""How often each stage is killed."""

Before = dict[str, tuple[Path, float]]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Before:
    """For each stage, a project with all that came before it, and the seconds it takes; `end` is when all have run."""
    warm_up()
    folder = tmp_path_factory.mktemp("projects") / "end"
    folder.mkdir()
    make_project(folder, stopping_model)
    states = {}
    for name in KILLED:
        states[name] = copied(folder, folder.with_name(name)), finish(folder, name)
    return {**states, "end": (folder, 0.0)}


@pytest.fixture
def project(request: pytest.FixtureRequest, before: Before, tmp_path: Path) -> Path:
    """A copy of the project as the stage `request.param` finds it."""
    return copied(before[request.param][0], tmp_path / "project")


def after(name: str, before: Before) -> dict[str, bytes]:
    """What the files of a project hold once the stage has run undisturbed."""
    return contents(before[[*KILLED, "end"][KILLED.index(name) + 1]][0])


@pytest.mark.parametrize("name", KILLED)
def test_a_stage_killed_at_random_moments_ends_as_an_undisturbed_one(name: str, before: Before, tmp_path: Path) -> None:
    found, seconds = before[name]
    expected, random = after(name, before), Random(name)
    for i in range(MOMENTS[name]):
        folder = copied(found, tmp_path / str(i))
        moment = seconds * random.random()
        while True:
            process = start(folder, name)
            process.join(moment)
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                break
            moment /= 2  # it was done: kill it earlier
            shutil.rmtree(folder)
            copied(found, folder)
        left = {path: content for path, content in contents(folder).items() if not path.startswith("artifacts/log")}
        assert left.items() <= expected.items()  # nothing half-written has its name
        finish(folder, name)
        assert contents(folder) == expected
        assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("project", ["train_phase2"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_step_that_it_came_in_and_says_so(
    number: signal.Signals, project: Path, before: Before
) -> None:
    checkpoint = project / ".checkpoints" / "phase2.safetensors"
    process = start(project, "train_phase2")
    while process.exitcode is None and not checkpoint.exists():
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    said = (project / "output").read_text()
    assert process.exitcode == 128 + number and "Traceback" not in said
    with safe_open(checkpoint, framework="pt") as file:
        assert '"step": 0' not in file.metadata()["progress"]
    assert said.splitlines()[-1].startswith("phase2, stopped at step ")
    assert said.endswith(f"by {number.name}; run the same command again to continue\n")
    finish(project, "train_phase2")
    assert "phase2: resuming at step" in (project / "output").read_text()
    assert contents(project) == after("train_phase2", before)


@pytest.mark.parametrize("project", ["train_phase1"], indirect=True)
def test_a_file_that_can_not_be_written_is_a_sentence_and_keeps_the_last_checkpoint(
    project: Path, before: Before
) -> None:
    weights = (before["end"][0] / "artifacts/phase1/adapter.safetensors").stat().st_size
    process = start(project, "train_phase1", largest_file=3 * weights)  # enough before AdamW has its moments
    process.join()
    said = (project / "output").read_text()
    assert process.exitcode == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("Error: .checkpoints/phase1.safetensors could not be written")
    with safe_open(project / ".checkpoints" / "phase1.safetensors", framework="pt") as file:
        assert '"step": 0' in file.metadata()["progress"]
    assert {path.name for path in (project / ".checkpoints").iterdir()} == {"phase1.safetensors", "checked.json"}
    finish(project, "train_phase1")
    assert contents(project) == after("train_phase1", before)


def test_two_threads_stay_within_tolerance_of_one(before: Before, stopping_model: Path, tmp_path: Path) -> None:
    make_project(tmp_path, stopping_model)
    finish_all(tmp_path, threads=2)
    one, two = (
        {
            f"{folder}/{path.name}": json.loads(path.read_text())
            for folder in ("metrics", "results")
            for path in (made / folder).glob("*.json")
        }
        for made in (before["end"][0], tmp_path)
    )
    drifts = compare_metrics(one, two, read_tolerances(ROOT / "metrics" / "tolerance.yaml"))
    compared = {drift.name.partition(".json")[0] for drift in drifts}
    assert compared == {
        *(f"metrics/{name}" for name in ("data", "pca", "phase1", "phase2", "evaluate")),
        *(f"results/{name}" for name in ("baselines", "data", "diagnosis", "evaluate", "reader")),
    }
    assert [drift for drift in drifts if not drift.ok] == []
