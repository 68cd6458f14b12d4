"""The queue, `--temp` and DVC's lock, around the real Phase 1 on a tiny model."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tiny_project import FORKED_STAGE, change, commands, contents, finish, make_project, wait_for_experiments

pytestmark = pytest.mark.integration

DVC_YAML = f"""
stages:
  train_phase1:
    cmd: {FORKED_STAGE} train_phase1
    deps: [data/qa, artifacts/pca, artifacts/uncompressed]
    params: [seed, phase1]
    outs: [artifacts/phase1, artifacts/log/phase1]
    metrics:
      - metrics/phase1.json:
          cache: false
"""
SWEEP = {f"rate{rate}-seed{seed}": (rate, seed) for rate in (0.001, 0.004) for seed in (0, 1)}


HELD = """
stages:
  hold:
    cmd: touch held; while [ ! -e go ]; do sleep 0.1; done; echo done > out
    outs: [out]
"""


class Workspace:
    """A Git and DVC project of the files in `folder`."""

    def __init__(self, folder: Path, dvc_yaml: str) -> None:
        self.folder = folder
        (folder / "dvc.yaml").write_text(dvc_yaml)
        (folder / ".gitignore").write_text("/.checkpoints\n/output\n")
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")
        self.run("git", "add", "--all")
        self.run("git", "commit", "-q", "-m", "state")

    def start(self, *command: str) -> "subprocess.Popen[str]":
        # A file and no pipe: the queue's workers would hold the pipe open long after their last experiment.
        with (self.folder / "output").open("w") as output:
            return subprocess.Popen(command, cwd=self.folder, env=commands(), stdout=output, stderr=output, text=True)

    def run(self, *command: str, ok: bool = True) -> str:
        code = self.start(*command).wait()
        said = (self.folder / "output").read_text()
        assert (code == 0) == ok, said
        return said


class Project(Workspace):
    """A workspace whose data and PCA are made and committed, and whose Phase 1 is to be trained."""

    def __init__(self, folder: Path, model: Path) -> None:
        folder.mkdir()
        make_project(folder, model)
        change(
            folder, {"phase1": {"steps": 8, "evaluate_every": 4}, "data": {"sft_records": 0, "phase2_sft_share": 0.0}}
        )
        for name in ("check", "generate_data", "uncompressed", "fit_pca"):
            finish(folder, name)
        super().__init__(folder, DVC_YAML)

    def states(self) -> dict[str, str]:
        """Name and state of every queued experiment."""
        rows = [line.split() for line in self.run("dvc", "queue", "status").splitlines()]
        return {row[1]: row[-1] for row in rows if len(row) > 1 and row[1] in SWEEP}

    def finished(self) -> dict[str, str]:
        """The reference of every experiment that has committed its results, by name."""
        refs = self.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
        return {ref.rpartition("/")[2]: ref for ref in refs}

    def metrics(self, name: str) -> dict[str, float]:
        """Metrics of Phase 1 as an experiment committed them."""
        ref = self.finished()[name]
        return json.loads(self.run("git", "show", f"{ref}:metrics/phase1.json"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Project:
    return Project(tmp_path_factory.mktemp("experiments") / "project", stopping_model)


def set_params(folder: Path, rate: float, seed: int) -> None:
    change(folder, {"seed": seed, "phase1": {"lr": rate}})


def alone(project: Project, folder: Path, rate: float, seed: int) -> dict[str, float]:
    """Metrics of Phase 1 in a folder where nothing else runs."""
    shutil.copytree(project.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", ".dvc"))
    set_params(folder, rate, seed)
    finish(folder, "train_phase1")
    return json.loads((folder / "metrics" / "phase1.json").read_text())


def test_a_sweep_with_two_workers_gives_what_each_run_gives_alone(project: Project, tmp_path: Path) -> None:
    before = contents(project.folder)
    for name, (rate, seed) in SWEEP.items():
        project.run("dvc", "exp", "run", "--queue", "-n", name, "-S", f"phase1.lr={rate}", "-S", f"seed={seed}")
    project.run("dvc", "queue", "start", "--jobs", "2")
    wait_for_experiments(project.run, SWEEP)
    for _ in range(60):
        if not (states := set(project.states().values())) & {"Queued", "Running"}:
            break
        time.sleep(1)
    assert states == {"Success"}
    assert contents(project.folder) == before
    found = {name: project.metrics(name) for name in SWEEP}
    assert found == {name: alone(project, tmp_path / name, *settings) for name, settings in SWEEP.items()}
    assert len({json.dumps(metrics) for metrics in found.values()}) > 1


def test_an_experiment_aside_takes_uncommitted_changes_along_and_leaves_the_workspace_alone(
    project: Project, tmp_path: Path
) -> None:
    set_params(project.folder, 0.003, 5)
    (project.folder / "untracked.txt").write_text("not taken along")
    before = contents(project.folder)
    project.run("dvc", "exp", "run", "--temp", "-n", "dirty")
    assert contents(project.folder) == before
    assert project.metrics("dirty") == alone(project, tmp_path / "alone", 0.003, 5)


def test_an_experiment_that_fails_aside_leaves_the_workspace_alone(project: Project) -> None:
    before = contents(project.folder)
    said = project.run("dvc", "exp", "run", "--temp", "-n", "bad", "-S", "phase1.lr=-1", ok=False)
    assert "phase1.lr is -1, which should be greater than 0" in " ".join(said.split())
    assert contents(project.folder) == before


def test_a_second_repro_at_the_same_time_gets_the_message_of_dvc_and_harms_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, HELD)
    first = workspace.start("dvc", "repro")
    while first.poll() is None and not (tmp_path / "held").exists():
        time.sleep(0.05)
    said = workspace.run("dvc", "repro", ok=False)
    assert "is busy, it is being blocked by" in " ".join(said.split())
    (tmp_path / "go").touch()
    assert first.wait() == 0 and (tmp_path / "out").read_text() == "done\n"
    assert "up to date" in workspace.run("dvc", "status")
