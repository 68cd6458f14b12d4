from pathlib import Path

import pytest

from narrowband.experiments.queue import Experiments
from narrowband.experiments.sweep import DATA, PICTURES, RUNS, Run, sweep_rows, write_sweep

ROW = {"f1": 50.0, "em": 40.0, "agreement": 45.0, "cosine": 0.9, "norm_ratio": 1.0, "token_match": 99.0}
METRICS = {name: {**ROW, "f1_interval": {"low": 47.0, "high": 53.0}} for name in ("pca", "phase1", "phase2")}


def test_every_run_has_a_name_of_its_own_and_vectors_that_shrink_by_its_ratio() -> None:
    assert len({run.name for run in RUNS}) == len(RUNS)
    for run in RUNS:
        overrides = run.overrides(256)
        assert overrides == {"window": run.window, "seed": run.seed, "compress_dim": overrides["compress_dim"]}
        assert 256 * run.window == overrides["compress_dim"] * run.compression


def test_rows_are_those_of_finished_runs_with_their_intervals() -> None:
    rows = sweep_rows(Experiments("abc", {Run(8, 16, 2).name: METRICS, "another": {}}, frozenset()))
    assert [row["system"] for row in rows] == ["pca", "phase1", "phase2"]
    assert rows[0] == {"compression": 8, "window": 16, "seed": 2, "system": "pca", **ROW, "low": 47.0, "high": 53.0}


def test_pictures_are_drawn_of_the_windows_that_have_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    finished = {run.name: METRICS for run in RUNS if run.window == 1}
    write_sweep(sweep_rows(Experiments("abc", finished, frozenset())))
    assert DATA.exists()
    assert {window: path.exists() for window, path in PICTURES.items()} == {16: False, 1: True}
