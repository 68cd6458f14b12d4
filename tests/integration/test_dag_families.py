"""The whole DAG on base models of other families than the bundled one's."""

from pathlib import Path

import pytest
from families import make_stop, save_family
from test_dag import STAGES, Project

pytestmark = pytest.mark.integration

SMALLER = {
    "phase1": {"steps": 2, "evaluate_every": 2},
    "phase2": {"steps": 2, "evaluate_every": 2},
    "data": {"train": 16, "validation": 3, "test": 4, "quick": 3, "sft_records": 2},
    "baselines": {"questions": 2},
    "generation": {"max_new_tokens": 4},
}


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_every_stage_runs_on_another_family(family: str, tmp_path: Path) -> None:
    model = save_family(family, tmp_path / family, tie_word_embeddings=False)
    make_stop(model)
    project = Project(tmp_path / "project", model)
    project.change(SMALLER)
    assert project.repro() == STAGES
    metrics = project.read("metrics/evaluate.json")
    assert metrics["compression_ratio"] == 4 * 32 / 16 and project.read("results/evaluate.json")["questions"] == 4
    assert all(0 <= metrics[system]["f1"] <= 100 for system in ("uncompressed", "pca", "phase1", "phase2"))
