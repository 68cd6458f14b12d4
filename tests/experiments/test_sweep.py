from narrowband.experiments.queue import Experiments
from narrowband.experiments.sweep import RATIOS, run_name, sweep_rows, sweep_runs


def test_every_ratio_is_a_run_of_its_own_whose_vectors_shrink_by_it() -> None:
    runs = sweep_runs(4096, (0, 1))
    assert len(runs) == 2 * len(RATIOS)
    assert runs[run_name(16, 1)] == {"compress_dim": 256, "seed": 1}


def test_rows_are_those_of_finished_runs_with_their_intervals() -> None:
    row = {"f1": 50.0, "em": 40.0, "agreement": 45.0, "cosine": 0.9, "norm_ratio": 1.0, "token_match": 99.0}
    metrics = {name: {**row, "f1_interval": {"low": 47.0, "high": 53.0}} for name in ("pca", "phase1", "phase2")}
    rows = sweep_rows(Experiments("abc", {run_name(8, 0): metrics, "another": {}}, frozenset()))
    assert [(r["compression"], r["seed"], r["system"]) for r in rows] == [
        (8, 0, "pca"),
        (8, 0, "phase1"),
        (8, 0, "phase2"),
    ]
    assert rows[0] == {"compression": 8, "seed": 0, "system": "pca", **row, "low": 47.0, "high": 53.0}
