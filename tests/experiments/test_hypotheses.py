import math
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from typer.testing import CliRunner

from narrowband.cli import app
from narrowband.experiments import commands
from narrowband.experiments.hypotheses import Result, Table, difference, load_table, markdown, outcome, pooled_results
from narrowband.experiments.queue import Experiments
from narrowband.params import InputError, Params
from narrowband.runtime.parameters import load_params

ROOT = Path(__file__).parent.parent.parent
COMMITTED = load_table(ROOT / "docs" / "hypotheses.yaml")


def effective(folder: Path, overrides: dict) -> Params:
    """The parameters of an experiment, changed by DVC itself."""
    path = folder / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    apply_overrides(path, [f"{name}={value}" for name, value in overrides.items()])
    return load_params(path)


@pytest.mark.parametrize("name", COMMITTED.runs())
def test_every_run_of_the_table_has_valid_parameters_that_are_those_it_sets(name: str, tmp_path: Path) -> None:
    overrides = COMMITTED.runs()[name]
    params = effective(tmp_path, overrides)
    assert params.vector_dim(256) == 4096
    for dotted, value in overrides.items():
        found = params
        for part in dotted.split("."):
            found = getattr(found, part)
        assert found == value


def test_no_two_runs_are_the_same_and_every_experiment_is_used(tmp_path: Path) -> None:
    dumps = [effective(tmp_path, overrides).model_dump_json() for overrides in COMMITTED.runs().values()]
    assert len(set(dumps)) == len(dumps)
    used = {arm.experiment for hypothesis in COMMITTED.hypotheses for arm in (hypothesis.test, hypothesis.against)}
    assert used == set(COMMITTED.experiments)


def test_phase_2_is_trained_wherever_it_is_compared() -> None:
    for hypothesis in COMMITTED.hypotheses:
        for arm in (hypothesis.test, hypothesis.against):
            if arm.system == "phase2":
                assert "phase2.steps" not in COMMITTED.experiments[arm.experiment].set


def test_the_compressions_of_the_claims_are_those_of_the_experiments(params: Params) -> None:
    dims = {name: e.set.get("compress_dim", params.compress_dim) for name, e in COMMITTED.experiments.items()}
    assert [
        dims[n] for n in ("compress-2048", "default", "compress-512", "compress-256", "compress-128", "compress-64")
    ] == [*(2048, 1024, 512, 256, 128, 64)]


def at(f1: float, half: float = 3.0) -> Result:
    return Result(f1, f1 - half, f1 + half, cosine=0.9, norm_ratio=1.0)


@pytest.mark.parametrize(
    ("test", "against", "holds_if", "expected"),
    [
        ([at(50)], [at(40)], "higher", "holds"),
        ([at(50)], [at(40)], "lower", "opposite"),
        ([at(40)], [at(50)], "lower", "holds"),
        ([at(40)], [at(50)], "higher", "opposite"),
        ([at(50)], [at(50)], "higher", "not shown"),
        ([at(54)], [at(50)], "higher", "not shown"),  # 4 is less than 3 x sqrt(2)
        ([at(54.5)], [at(50)], "higher", "holds"),
        ([at(54), at(54), at(54)], [at(50), at(50), at(50)], "higher", "holds"),  # three seeds, half-width 2.4
        ([at(70), at(70), at(49)], [at(50), at(50), at(50)], "higher", "not shown"),  # one seed disagrees
    ],
)
def test_verdicts(
    test: list[Result], against: list[Result], holds_if: Literal["higher", "lower"], expected: str
) -> None:
    assert outcome(test, against, holds_if) == expected


def test_the_interval_of_a_difference_is_that_of_independent_normal_means() -> None:
    generator = np.random.default_rng(0)
    errors = (1.5, 0.8)
    draws = [generator.normal(mean, error, size=400_000) for mean, error in zip((60, 55), errors, strict=True)]
    low, high = np.percentile(draws[0] - draws[1], [2.5, 97.5])
    found = difference(at(60, 1.96 * errors[0]), at(55, 1.96 * errors[1]))
    assert found == pytest.approx((5, low, high), abs=0.05)


def test_a_lopsided_interval_gives_a_lopsided_difference() -> None:
    found = difference(Result(2, 1.5, 4, 0, 0), Result(1, 0.5, 2.5, 0, 0))
    assert found == pytest.approx((1, 1 - math.hypot(0.5, 1.5), 1 + math.hypot(2, 0.5)))


def test_seeds_are_averaged() -> None:
    mean = pooled_results([Result(40, 38, 43, 0.8, 1.0), Result(50, 47, 54, 0.9, 1.2)])
    assert mean == pytest.approx((45, 45 - math.hypot(2, 3) / 2, 45 + math.hypot(3, 4) / 2, 0.85, 1.1))


TABLE = Table.model_validate(
    {
        "experiments": {
            "default": {"seeds": [0, 1]},
            "token": {"set": {"magnitude": "token", "phase2.steps": 1}, "seeds": [0, 1, 2]},
            "later": {"set": {"window": 1}},
        },
        "hypotheses": [
            {
                "claim": "Scale matters.",
                "expected": "Its likeliest cause.",
                "test": ["token", "phase1"],
                "against": ["default", "pca"],
                "holds_if": "higher",
            },
            {
                "claim": "Windows hurt.",
                "expected": "Nothing.",
                "test": ["later", "phase2"],
                "against": ["default", "phase2"],
                "holds_if": "higher",
            },
        ],
    }
)


def metrics(**f1: float) -> dict:
    return {
        name: {"f1": value, "f1_interval": {"low": value - 2, "high": value + 2}, "cosine": 0.5, "norm_ratio": 1.25}
        for name, value in f1.items()
    }


def test_the_page_has_a_row_with_figures_or_says_what_has_not_run() -> None:
    finished = {
        "default-seed0": metrics(pca=10, phase1=1, phase2=1),
        "default-seed1": metrics(pca=20, phase1=1, phase2=1),
        "token-seed0": metrics(pca=1, phase1=60, phase2=1),
        "token-seed1": metrics(pca=1, phase1=62, phase2=1),
        "token-seed2": metrics(pca=1, phase1=99, phase2=1),  # without its like on the other side
    }
    page = markdown(TABLE, Experiments(("0123456789abcdef", "fedcba9876543210"), finished, frozenset(), {}))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and rows[1] == ["---"] * len(rows[0])
    assert dict(zip(rows[0], rows[2], strict=True)) == {
        "hypothesis": "Scale matters.",
        "what the diagnosis expected": "Its likeliest cause.",
        "command": "`dvc exp run evaluate -S magnitude=token -S phase2.steps=1`",
        "random seeds": "0, 1",
        "F1": "Phase 1 61.0 (59.6 to 62.4)",
        "against": "PCA of default 15.0 (13.6 to 16.4)",
        "difference": "+46.0 (+44.0 to +48.0)",
        "cosine": "0.500",
        "norm ratio": "1.250",
        "outcome": "holds",
    }
    assert rows[3][-1] == "not run" and rows[3][4] == "-"
    assert "narrowband hypotheses --rev 0123456789ab --rev fedcba987654`" in page
    assert page.endswith("Not run yet: later-seed0.\n")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"hypotheses": [{**TABLE.model_dump()["hypotheses"][0], "test": ["nowhere", "pca"]}]},
            "no experiment nowhere",
        ),
        (
            {"hypotheses": [{**TABLE.model_dump()["hypotheses"][0], "test": ["default", "phase3"]}]},
            "hypotheses.0.test.1 is 'phase3', which should be 'pca'",
        ),
        ({"experiments": {"default": {"seeds": [-1]}}}, "experiments.default.seeds.0 is -1, which should be"),
        ({"extra": 1}, "extra is 1, which"),
    ],
)
def test_a_table_that_is_no_table_is_refused(change: dict, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(TABLE.model_dump_json()) | change))
    with pytest.raises(InputError) as refusal:
        load_table(path)
    assert sentence in str(refusal.value) and str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", [None, "a: ["])
def test_a_missing_or_broken_table_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.yaml"
    if text:
        path.write_text(text)
    with pytest.raises(InputError, match="restore it from Git"):
        load_table(path)


def test_experiments_of_several_commits_are_read_in_the_order_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/hypotheses.yaml", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    asked = []
    none = Experiments(("a" * 40,), {}, frozenset(), {})
    monkeypatch.setattr(commands, "collect", lambda revisions: asked.append(revisions) or none)
    for words in ([], ["--rev", "new", "--rev", "old"]):
        assert CliRunner().invoke(app, ["hypotheses", *words]).exit_code == 0
    assert asked == [["HEAD"], ["new", "old"]]
