"""All stages on base models of other families than the bundled one's, and on states after a block."""

import json
from pathlib import Path
from typing import Any

import pytest
from families import make_stop, save_family
from tiny_project import BRIEF, change, finish, finish_all, make_project, start

pytestmark = pytest.mark.integration

SMALLER = {
    **BRIEF,
    "reader": {"tokens_per_position": 1},
    "data": {"train": 16, "validation": 3, "test": 4, "quick": 3, "sft_records": 2},
    "generation": {"max_new_tokens": 4},
}


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_every_stage_runs_on_another_family(family: str, tmp_path: Path) -> None:
    model = save_family(family, tmp_path / family, tie_word_embeddings=False)
    make_stop(model)
    folder = tmp_path / "project"
    folder.mkdir()
    make_project(folder, model)
    change(folder, SMALLER)
    finish_all(folder)
    metrics = read(folder, "metrics/evaluate.json")
    assert metrics["compression_ratio"] == 4 * 32 / 16 and read(folder, "results/evaluate.json")["questions"] == 4
    assert all(0 <= metrics[system]["f1"] <= 100 for system in ("uncompressed", "pca", "phase1", "phase2"))


def test_every_stage_runs_on_states_after_a_block(tmp_path: Path, stopping_model: Path) -> None:
    make_project(tmp_path, stopping_model)
    change(tmp_path, {**SMALLER, "phase1": {**BRIEF["phase1"], "vocabulary_share": 0}, "source": "block-1"})
    finish_all(tmp_path)
    metrics, details = (read(tmp_path, f"{folder}/evaluate.json") for folder in ("metrics", "results"))
    assert metrics["compression_ratio"] == 4 * 32 / 16
    for system in ("pca", "phase1", "phase2"):
        assert metrics[system].keys() == {"f1", "em", "agreement", "cosine", "norm_ratio"}
        assert {"mse", "relative_error"} <= details[system].keys()
    process = start(tmp_path, "narrowband", ["show"])
    process.join()
    assert process.exitcode == 0 and "Phase 2" in (tmp_path / "output").read_text()
    systems = {row["system"] for row in read(tmp_path, "results/baselines.json")["rows"]}
    assert {"scalar quantiser", "residual quantiser", "product quantiser", "rotation", "pca", "phase2"} <= systems
    assert systems.isdisjoint({"pca lookup", "token id"})
    assert read(tmp_path, "results/diagnosis.json") == {}
    assert read(tmp_path, "artifacts/pca/config.json")["source"] == "block-1"
    assert read(tmp_path, "artifacts/pca/config.json")["vocabulary_share"] == 0
    assert read(tmp_path, "artifacts/phase2/config.json")["source"] == "block-1"

    change(tmp_path, {"latent_coding": {"kind": "entropy", "bits_per_token": 8}})
    for stage in ("fit_pca", "train_phase1", "train_phase2", "evaluate"):
        finish(tmp_path, stage)
    assert read(tmp_path, "metrics/evaluate.json")["bits_per_token"] == pytest.approx(8, rel=0.25)

    change(tmp_path, {"source": "embeddings"})
    process = start(tmp_path, "evaluate")
    process.join()
    said = " ".join((tmp_path / "output").read_text().split())
    assert process.exitcode == 2 and "artifacts/pca was made with source block-1, not embeddings" in said
