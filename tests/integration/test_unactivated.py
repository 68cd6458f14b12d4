"""`stages/run` finds the Python of a stage where no environment is activated."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BARE = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"], "DVC_NO_ANALYTICS": "1"}
STAGE = """
import sys
from pathlib import Path
import narrowband

assert Path(narrowband.__file__).resolve() == Path("src/narrowband.py").resolve()  # this folder's code, not an installed one
Path("out").write_text(sys.prefix)
"""
DVC_YAML = "stages: {probe: {cmd: sh stages/run probe, outs: [out]}}"

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where DVC puts an experiment, deep inside a project, with a stage that writes which Python runs it."""
    folder = tmp_path / "project with spaces/.dvc/tmp/exps/one"
    (folder / "stages").mkdir(parents=True)
    shutil.copy(ROOT / "stages/run", folder / "stages")
    (folder / "stages/probe.py").write_text(STAGE)
    (folder / "src").mkdir()
    (folder / "src/narrowband.py").touch()
    return folder


def orphan(folder: Path) -> int:
    """Run the stage by a shell whose parent has ended, so that no Python is above it; its exit code."""
    command = "(sleep 1; sh stages/run probe 2> said; echo $? > code.part; mv code.part code) &"
    subprocess.run(["sh", "-c", command], cwd=folder, env=BARE, check=True)
    deadline = time.monotonic() + 60
    while not (folder / "code").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return int((folder / "code").read_text())


def test_dvc_that_is_called_by_its_path_runs_stages_with_its_own_python(folder: Path) -> None:
    (folder / "dvc.yaml").write_text(DVC_YAML)
    for words in (["init", "--quiet", "--no-scm"], ["repro", "--quiet"]):
        subprocess.run([Path(sys.executable).parent / "dvc", *words], cwd=folder, env=BARE, check=True)
    assert (folder / "out").read_text() == sys.prefix


def test_the_environment_of_the_project_above_is_found(folder: Path) -> None:
    python = folder.parents[3] / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    assert orphan(folder) == 0 and (folder / "out").read_text() == sys.prefix


def test_without_any_environment_one_sentence_says_what_to_do(folder: Path) -> None:
    assert orphan(folder) == 2
    (line,) = (folder / "said").read_text().splitlines()
    assert line.startswith("Error: no Python with narrowband's packages") and "source .venv/bin/activate" in line
