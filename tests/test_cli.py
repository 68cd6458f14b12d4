"""The `narrowband` command on a small Git and DVC project of its own."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner

from narrowband.cli import app
from narrowband.params import InputError

ROOT = Path(__file__).parent.parent
DVC_YAML = """
stages:
  evaluate:
    cmd: echo
    metrics:
      - metrics/evaluate.json:
          cache: false
    plots:
      - results/evaluate.json:
          cache: false
"""

INTERVAL = {"f1_interval": {"low": 0.0, "high": 100.0}}
DETAILS = {
    **dict.fromkeys(("pca", "phase1", "phase2"), INTERVAL),
    "uncompressed": {**INTERVAL, "bits_per_token": 4096},
    "mcnemar": {"phase1_phase2": {"only_first": 1, "only_second": 9, "p": 0.0215}},
}


def metrics(phase2_f1: float) -> dict[str, Any]:
    compressed = {"em": 0.0, "agreement": 55.0, "cosine": 0.875, "norm_ratio": 1.125, "token_match": 62.5}
    return {
        "uncompressed": {"f1": 80.0, "em": 0.0},
        "pca": {"f1": 10.0, **compressed},
        "phase1": {"f1": 20.0, **compressed},
        "phase2": {"f1": phase2_f1, **compressed},
        "compression_ratio": 16.0,
        "bits_per_token": 256.0,
        "f1_retained": phase2_f1 / 80.0,
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Phase 2 reaches F1 30 at the only commit, and 40 in the workspace."""
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    Repo.init()
    Path("dvc.yaml").write_text(DVC_YAML)
    for folder, content in (("metrics", metrics(30.0)), ("results", DETAILS)):
        Path(folder).mkdir()
        Path(folder, "evaluate.json").write_text(json.dumps(content))
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "first"], check=True)
    Path("metrics/evaluate.json").write_text(json.dumps(metrics(40.0)))
    return tmp_path


@pytest.mark.parametrize(("revision", "f1", "retained"), [((), "40.0", "50.0%"), (("HEAD",), "30.0", "37.5%")])
def test_show_prints_the_table_of_the_workspace_or_of_a_revision(
    project: Path, revision: tuple[str, ...], f1: str, retained: str
) -> None:
    result = CliRunner().invoke(app, ["show", *revision], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"16x fewer numbers, 16x fewer bits, F1 retained {retained}, agreement 55.0" in result.output
    rows = {words[0]: words[1:] for line in result.output.splitlines() if len(words := line.split("│")[1:-1]) == 10}
    cells = {name.strip(): [cell.strip() for cell in row] for name, row in rows.items()}
    assert cells["Phase 2"] == [f1, "0.0 to 100.0", "0.0", "0.021", "55.0", "0.875", "1.125", "62.5", "256"]
    assert cells["Uncompressed"] == ["80.0", "0.0 to 100.0", "0.0", "", "100", "1", "1", "100", "4096"]


def test_show_needs_only_the_headline(project: Path) -> None:
    whole = CliRunner().invoke(app, ["show"], env={"COLUMNS": "200"}).output
    shutil.rmtree("results")
    result = CliRunner().invoke(app, ["show"], env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "40.0" in result.output
    assert "0.0 to 100.0" in whole and "0.0 to 100.0" not in result.output


def test_show_says_which_figure_an_older_version_did_not_write(project: Path) -> None:
    headline = metrics(40.0)
    del headline["phase2"]["agreement"]
    Path("metrics/evaluate.json").write_text(json.dumps(headline))
    result = CliRunner().invoke(app, ["show"])
    assert isinstance(result.exception, InputError)
    assert "metrics/evaluate.json or results/evaluate.json at the workspace has no 'agreement'" in str(result.exception)


@pytest.mark.parametrize(
    "content", [[], None, 3, metrics(40.0) | {"bits_per_token": None}, metrics(40.0) | {"pca": []}]
)
def test_show_says_that_a_file_of_metrics_is_another(project: Path, content: Any) -> None:
    Path("metrics/evaluate.json").write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["show"])
    assert isinstance(result.exception, InputError)
    assert "metrics/evaluate.json" in str(result.exception) and "run dvc repro" in str(result.exception)


@pytest.mark.parametrize("command", [["encode", "--question", "What?"], ["encode-context"]])
@pytest.mark.parametrize("out", ["", ".", "/", "metrics"])
def test_what_is_encoded_is_not_written_to_a_folder(project: Path, command: list[str], out: str) -> None:
    shutil.copy(ROOT / "params.yaml", project)  # without a model
    result = CliRunner().invoke(app, [*command, "--context", "A text.", out])
    assert isinstance(result.exception, InputError) and "is a folder; name a file to write" in str(result.exception)


def test_ask_refuses_text_that_is_not_utf_8(project: Path) -> None:
    shutil.copy(ROOT / "params.yaml", project)
    result = CliRunner().invoke(app, ["ask", "--context", "caf\udce9", "--question", "What?"])
    assert isinstance(result.exception, InputError) and "--context is not in UTF-8" in str(result.exception)


@pytest.mark.parametrize("given", [[], ["--context", "A text.", "--encoded", "passage"]], ids=["neither", "both"])
def test_ask_wants_a_passage_or_an_encoded_one(project: Path, given: list[str]) -> None:
    shutil.copy(ROOT / "params.yaml", project)
    result = CliRunner().invoke(app, ["ask", *given, "--question", "What?"])
    assert isinstance(result.exception, InputError) and "give either --context" in str(result.exception)


def test_encode_context_needs_fewer_positions_than_tokens(project: Path) -> None:
    shutil.copy(ROOT / "params.yaml", project)
    result = CliRunner().invoke(app, ["encode-context", "--context", "A text.", "passage"])
    assert isinstance(result.exception, InputError)
    assert "reader.tokens_per_position is 1, so there is no encoder" in str(result.exception)


def test_show_refuses_a_revision_that_is_not_there(project: Path) -> None:
    result = CliRunner().invoke(app, ["show", "nowhere"])
    assert isinstance(result.exception, InputError)
    assert "no metrics at revision nowhere" in str(result.exception)
    assert "name a commit or experiment" in str(result.exception)


@pytest.mark.parametrize(
    ("change", "drifted"),
    [({}, "metrics/evaluate.json.phase2.f1"), ({"questions": 7}, "results/evaluate.json.questions")],
    ids=["metrics", "results"],
)
def test_verify_tells_what_drifted_of_metrics_and_of_results(
    project: Path, change: dict[str, int], drifted: str
) -> None:
    tolerances = {"metrics/*": 9.9, "*": 0}
    if change:
        tolerances["metrics/*"] = 10.0
        Path("results/evaluate.json").write_text(json.dumps(DETAILS | change))
    Path("metrics/tolerance.yaml").write_text(json.dumps(tolerances))
    result = CliRunner().invoke(app, ["verify"], env={"COLUMNS": "200"})
    assert result.exit_code == 1 and f"drifted: {drifted}\n" in result.output
