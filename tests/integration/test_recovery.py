"""`narrowband restore` after a failure of each stage: the real DAG in DVC, with stages that take no time."""

import json
import os
import sys
import time
from pathlib import Path
from shlex import quote

import pytest
import yaml
from test_dag import Project
from tiny_project import STAGES

pytestmark = pytest.mark.integration

FAKE = """
import json, sys
from pathlib import Path

name = Path(__file__).stem
if Path(".checkpoints/fails").read_text() == name:
    sys.exit("this stage fails")
made = f"[{Path('params.yaml').read_text().count('compress_dim: 16')}]"
for out in map(Path, json.loads(Path(".checkpoints/outs.json").read_text())[name]):
    if out.suffix or out.name == "checked":
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(made)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for file in ("prompt.json", "train.json", "validation.json", "test.json", "train.jsonl", "evaluations.csv"):
            (out / file).write_text(made)
"""
"""A stage that imports nothing slow; the paths of its outputs are those in `dvc.yaml`."""

LEFT_ALONE = {".git", ".dvc", ".checkpoints"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Project:
    project = Project(tmp_path_factory.mktemp("project"), stopping_model)
    (project.folder / "stages" / "run").write_text(f'exec {quote(sys.executable)} -I -S "stages/$1.py"\n')
    for stage in STAGES:
        (project.folder / "stages" / f"{stage}.py").write_text(FAKE)
    stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"]
    fail_in(project, "none")
    (project.folder / ".checkpoints/outs.json").write_text(json.dumps({name: outs(stages[name]) for name in STAGES}))
    assert project.repro() == [*STAGES]
    project.commit()
    return project


def outs(stage: dict[str, list]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def fail_in(project: Project, stage: str) -> None:
    (project.folder / ".checkpoints").mkdir(exist_ok=True)
    (project.folder / ".checkpoints/fails").write_text(stage)


def contents(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_text(errors="replace")
        for name, path in files.items()
        if name.parts[0] not in LEFT_ALONE and "__pycache__" not in name.parts
    }


@pytest.mark.parametrize("stage", STAGES)
def test_restore_undoes_an_experiment_that_failed(project: Project, stage: str) -> None:
    before = contents(project.folder)
    fail_in(project, stage)
    said = project.run("dvc", "exp", "run", "-S", "compress_dim=32", ok=False)
    assert f"failed to reproduce '{stage}'" in said and contents(project.folder) != before
    fail_in(project, "none")
    project.run("narrowband", "restore")
    assert contents(project.folder) == before
    assert project.run("git", "status", "--porcelain") == ""


def test_nothing_is_left_to_do_after_a_restore(project: Project) -> None:
    assert project.repro() == ["check"]


def test_restore_sees_through_an_index_that_takes_a_changed_file_for_unchanged(project: Project) -> None:
    """A file of the same length and time as its index entry: Git calls it clean, and its checkout restores nothing."""
    before, path = contents(project.folder), project.folder / "params.yaml"
    project.run("git", "config", "core.checkStat", "minimal")
    project.run("git", "config", "core.trustctime", "false")
    project.run("git", "update-index", "--refresh")
    time.sleep(1.1)  # an entry as old as the index itself would be looked at again
    project.run("git", "update-index", "--force-write-index")
    known = path.stat()
    project.change({"compress_dim": 99})
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    changed = path.read_bytes()
    assert len(changed) == known.st_size and project.run("git", "status", "--porcelain") == ""
    project.run("git", "checkout", "params.yaml")
    assert path.read_bytes() == changed
    project.run("narrowband", "restore")
    assert contents(project.folder) == before


def test_restore_says_what_to_do_if_the_cache_lacks_an_output(project: Project) -> None:
    (project.folder / ".dvc/cache").rename(project.folder / ".dvc/cache-elsewhere")
    (project.folder / "artifacts/pca/train.json").unlink()
    said = " ".join(project.run("narrowband", "restore", ok=False).split())
    assert "Error: parameters and metrics are back, but not all outputs" in said and "run dvc repro" in said
