"""The real stages, driven by DVC, on a tiny random model."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

import pytest
import yaml
from tiny_project import FORKED_STAGE, STAGES, change, commands, wait_for_experiments

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "compress_dim": 16,
    "window": 4,
    "phase1": {"steps": 6, "batch_size": 4, "lr": 0.002, "warmup": 2, "evaluate_every": 3},
    "phase2": {"steps": 6, "batch_size": 4, "lr": 0.001, "warmup": 2, "evaluate_every": 3},
    "reader": {"pretrain_steps": 2, "steps": 4, "batch_size": 4, "warmup": 2, "evaluate_every": 3},
    "data": {
        "train": 40,
        "validation": 6,
        "test": 8,
        "quick": 6,
        "sft_records": 3,
        "gates": {"pilot": 8, "kept": 0, "critic": 0, "length_limit": 1, "runaway": 1},
        "critic": {"instruction": -100, "pair": -100},
    },
    "baselines": {"questions": 5},
}
pytestmark = pytest.mark.integration


class Project:
    """A clone of the project with a tiny base model and small parameters, all committed.

    DVC hashes the clone's code, but its stages run this checkout's, forked from a process that has imported their libraries.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("stages", "src", "pools"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("dvc.yaml", "params.yaml", "requirements.lock", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, folder)
        (folder / "stages" / "run").write_text(f'exec {FORKED_STAGE} "$1"\n')
        shutil.copytree(model, folder / "models" / "base")
        self.change(SMALL)
        self.run("git", "init", "-q")
        self.run("dvc", "init", "-q")
        self.run("dvc", "commit", "-q", "--force", "pretrain_base")
        self.commit()

    def run(self, *command: str, ok: bool = True) -> str:
        name, *words = command
        if name == "narrowband":
            command = (*shlex.split(FORKED_STAGE), name, *words)
        # Files and no pipes: the queue's worker would hold a pipe open long after its last experiment.
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
            done = subprocess.run(command, cwd=self.folder, env=commands(), stdout=out, stderr=err)
            out.seek(0), err.seek(0)
            said = out.read() + err.read()
        assert (done.returncode == 0) == ok, said
        return said

    def change(self, values: dict) -> None:
        change(self.folder, values)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "-q", "-m", "state")

    def figures(self) -> dict[str, str]:
        """The text of every file of metrics and of results."""
        files = [file for name in ("metrics", "results") for file in (self.folder / name).glob("*.json")]
        return {f"{file.parent.name}/{file.name}": file.read_text() for file in files}

    def read(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def repro(self) -> list[str]:
        """Run `dvc repro`; the stages that ran or were restored."""
        output = self.run("dvc", "repro")
        return [
            stage for stage in STAGES if f"Running stage '{stage}'" in output or f"Stage '{stage}' is cached" in output
        ]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Project:
    project = Project(tmp_path_factory.mktemp("project"), stopping_model)
    assert project.repro() == [*STAGES]
    project.commit()
    return project


def test_metrics_and_predictions_are_those_of_the_contract(project: Project) -> None:
    metrics, details = (project.read(f"{folder}/evaluate.json") for folder in ("metrics", "results"))
    assert {"compression_ratio", "bits_per_token", "f1_retained"} <= metrics.keys()
    ids = {f"test-{i:05d}" for i in range(8)}
    for system in ("uncompressed", "pca", "phase1", "phase2"):
        assert {"f1", "em"} <= metrics[system].keys()
        assert project.read(f"artifacts/evaluate/predictions_{system}.json").keys() == ids
        if system != "uncompressed":
            assert {"agreement", "cosine", "norm_ratio", "token_match"} <= metrics[system].keys()
            assert {"f1_interval", "mse", "relative_error"} <= details[system].keys()
    assert metrics["compression_ratio"] == 4 * 32 / 16
    assert 0 < project.read("metrics/pca.json")["explained_variance"] < 1
    assert len((project.folder / "data/sft/train.jsonl").read_text().splitlines()) == 3
    assert set(project.read("results/data.json")["broken"].values()) == {0}


def test_the_declared_metrics_are_at_most_forty_numbers(project: Project) -> None:
    def numbers(content: object) -> int:
        if isinstance(content, dict):
            return sum(map(numbers, content.values()))
        return isinstance(content, int | float) and not isinstance(content, bool)

    assert sum(numbers(project.read(name)) for name in project.figures() if name.startswith("metrics/")) <= 40


def test_every_baseline_has_a_row_with_numbers(project: Project) -> None:
    rows = project.read("results/baselines.json")["rows"]
    fitted, simple = (
        {"pca", "pca lookup", "phase1", "phase2"},
        {"truncation", "random projection", "rotation", "token id"},
    )
    assert {row["system"] for row in rows} >= {*fitted, *simple, "residual quantiser", "product quantiser"}
    assert all(0 <= row["f1"] <= 100 and row["bits_per_token"] > 0 for row in rows)


def test_the_python_of_the_readme_runs(project: Project) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "bits a token" in project.run(sys.executable, "-c", code)


def test_nothing_to_do_is_nothing_but_checked(project: Project) -> None:
    checked = (project.folder / "artifacts/checked").read_text()
    assert project.repro() == ["check"]
    assert (project.folder / "artifacts/checked").read_text() == checked
    assert project.run("git", "status", "--porcelain") == ""


def test_a_base_model_changed_under_its_name_invalidates_what_depends_on_it(project: Project) -> None:
    path = project.folder / "models/base/tokenizer_config.json"
    path.write_text(path.read_text() + "\n")
    project.run("dvc", "repro", "check")
    status = json.loads(project.run("dvc", "status", "--json").splitlines()[0])  # a warning follows
    assert {
        "generate_data",
        "uncompressed",
        "references",
        "fit_pca",
        "train_phase1",
        "train_phase2",
        "evaluate",
    } <= status.keys()
    assert {"changed deps": {"artifacts/checked": "modified"}} in status["fit_pca"]
    restore(project)
    project.run("dvc", "repro", "check")


@pytest.fixture(scope="module")
def reweighted(project: Project) -> dict:
    """Metrics after a change of a weight in the loss of Phase 2, of a workspace that is then restored."""
    weights = yaml.safe_load((project.folder / "params.yaml").read_text())["loss"]["phase2"]
    project.change({"loss": {"phase2": {**weights, "kl": 0.5}}})
    assert project.repro() == ["check", "train_phase2", "train_reader", "evaluate", "baselines", "diagnose"]
    metrics = project.read("metrics/evaluate.json")
    restore(project)
    return metrics


def test_a_phase_2_weight_invalidates_phase_2_and_what_evaluates_it_alone(project: Project, reweighted: dict) -> None:
    before = project.read("metrics/evaluate.json")
    assert before["pca"] == reweighted["pca"] and before["phase1"] == reweighted["phase1"]


def test_a_reader_is_one_parameter_away_and_changes_no_other_number(project: Project) -> None:
    before = project.read("metrics/evaluate.json")
    assert "reader" not in before and project.read("results/reader.json") == {}
    project.change({"reader": {"tokens_per_position": 2}})
    assert project.repro() == ["check", "train_reader", "evaluate", "baselines", "diagnose"]
    after, details = project.read("metrics/evaluate.json"), project.read("results/evaluate.json")
    row = after.pop("reader")
    assert after == before
    assert row.keys() == {"f1", "em", "agreement", "positions_ratio", "bits_per_token"}
    assert 1.5 < row["positions_ratio"] < 2 and 16 * 32 / 2 <= row["bits_per_token"] < 16 * 32 / 1.9
    assert {"mean pooling", "surprisal"} < details["fewer_positions"].keys()
    assert project.read("results/reader.json").keys() == {"f1", "best_step"}
    assert "Reader, " in project.run("narrowband", "show")
    passage, question = "Mara Velt lives in Tornby. Ode Rusk lives in Kell.", "Where does Ode Rusk live?"
    assert " positions for " in project.run("narrowband", "encode-context", "--context", passage, "context.nb")
    assert project.run("narrowband", "ask", "--encoded", "context.nb", "--question", question).strip()
    (project.folder / "context.nb").unlink()
    restore(project)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"compress_dim": 129}, "compress_dim 129 is more than vector_dim 128 (window 4 x hidden 32); choose 1 to 128"),
        ({"dataset": "nowhere.json"}, "nowhere.json does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_loses_nothing(project: Project, values: dict, sentence: str) -> None:
    outputs = {
        file: file.read_bytes()
        for folder in ("artifacts", "data", "metrics", "results")
        for file in (project.folder / folder).rglob("*")
        if file.is_file() and file.name != "checked"  # which DVC removes before it runs the check
    }
    project.change(values)
    output = project.run("dvc", "repro", ok=False)
    assert sentence in " ".join(output.split()) and "Traceback" not in output and "exited with 2" in output
    assert {file: file.read_bytes() for file in outputs} == outputs
    restore(project)


def test_experiments_in_the_workspace_aside_and_queued(project: Project, reweighted: dict) -> None:
    before = project.figures()
    project.run("dvc", "exp", "run", "--temp", "-n", "aside", "-S", "compress_dim=32", "evaluate")
    assert project.figures() == before
    project.run("dvc", "exp", "run", "--queue", "-n", "queued", "-S", "loss.phase2.kl=0.5")  # from the run cache
    project.run("dvc", "queue", "start")
    wait_for_experiments(project.run, ["queued"])
    shown = {name: experiment_metrics(project, name) for name in ("aside", "queued")}
    assert shown["aside"]["compression_ratio"] == 4 and shown["queued"] == reweighted
    said = project.run("dvc", "exp", "run", "-n", "here", "-S", "compress_dim=32", "baselines")
    assert all(f"Stage '{stage}' didn't change" in said for stage in ("uncompressed", "references"))
    project.run("dvc", "repro", "evaluate")
    changed = json.loads(project.run("dvc", "metrics", "diff", "--json"))
    assert changed["metrics/evaluate.json"]["compression_ratio"] == {"old": 8, "new": 4, "diff": -4}
    assert project.read("metrics/evaluate.json")["phase2"] == shown["aside"]["phase2"]
    restore(project)


def references(project: Project, name: str) -> list[str]:
    """What Git calls an experiment, once it has committed its results."""
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return [ref for ref in refs if ref.endswith(f"/{name}")]


def experiment_metrics(project: Project, name: str) -> dict:
    """`metrics/evaluate.json` as an experiment committed it."""
    (ref,) = references(project, name)
    return json.loads(project.run("git", "show", f"{ref}:metrics/evaluate.json"))


def restore(project: Project) -> None:
    """Back to the committed state, outputs included."""
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "-q")
