import json
from pathlib import Path

from benchmarks.geometry_8b import main


def test_a_small_model_runs_through_every_stage_and_is_measured(tmp_path: Path) -> None:
    main(tmp_path, smoke=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["stages"]) == ["uncompressed", "fit_pca", "train_phase1", "train_phase2", "evaluate"]
    for stage in results["stages"].values():
        assert stage["seconds"] > 0 and stage["peak_gb"] > 0
    assert set(results["speed"]) == {"phase1", "phase2", "answers"}
    assert all(found["tokens_a_second"] > 0 and found["mfu"] > 0 for found in results["speed"].values())
