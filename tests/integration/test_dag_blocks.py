"""The whole DAG on states after a block, and what it leaves out."""

from pathlib import Path

import pytest
from test_dag import STAGES, Project
from test_dag_families import SMALLER

pytestmark = pytest.mark.integration


def test_every_stage_runs_on_states_after_a_block(tmp_path: Path, stopping_model: Path) -> None:
    project = Project(tmp_path / "project", stopping_model)
    project.change({**SMALLER, "source": "block-1"})
    assert project.repro() == STAGES
    metrics, details = (project.read(f"{folder}/evaluate.json") for folder in ("metrics", "results"))
    assert metrics["compression_ratio"] == 4 * 32 / 16
    for system in ("pca", "phase1", "phase2"):
        assert metrics[system].keys() == {"f1", "em", "agreement", "cosine", "norm_ratio"}
        assert {"mse", "relative_error"} <= details[system].keys()
    assert "Phase 2" in project.run("narrowband", "show")
    systems = {row["system"] for row in project.read("results/baselines.json")["rows"]}
    assert {"scalar quantiser", "residual quantiser", "product quantiser", "rotation", "pca", "phase2"} <= systems
    assert systems.isdisjoint({"pca lookup", "token id"})
    assert project.read("results/diagnosis.json") == {}
    assert project.read("artifacts/pca/config.json")["source"] == "block-1"
    assert project.read("artifacts/pca/config.json")["vocabulary_share"] == 0
    assert project.read("artifacts/phase2/config.json")["source"] == "block-1"

    project.change({"latent_coding": {"kind": "entropy", "bits_per_token": 8}})
    assert {"fit_pca", "evaluate"} <= set(project.repro())
    assert project.read("metrics/evaluate.json")["bits_per_token"] == pytest.approx(8, rel=0.25)

    project.change({"source": "embeddings"})
    refusal = project.run("dvc", "repro", "--single-item", "evaluate", ok=False)
    assert "artifacts/pca was made with source block-1, not embeddings" in " ".join(refusal.split())
