"""What changes under the same name counts as changed: base model, data set and pool, also where DVC's run cache knows an answer."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_dag import Project

from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad

pytestmark = pytest.mark.integration

WEIGHTS = "models/mine/model.safetensors"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Project:
    """Base model and data set are files that neither Git nor DVC tracks."""
    project = Project(tmp_path_factory.mktemp("project"), stopping_model)
    (project.folder / "models/base").rename(project.folder / "models/mine")
    (project.folder / "models/base").mkdir()
    (project.folder / "models/base/kept").touch()
    write_squad(project.folder / "mine.json", "mine", [world_example(0, "train", i) for i in range(60)])
    with (project.folder / ".gitignore").open("a") as ignored:
        ignored.write("/mine.json\n/models/mine\n")
    project.change({"base_model": "models/mine", "dataset": "mine.json", "data": {"sft_records": 0}})
    ran(project)
    project.commit()
    return project


def ran(project: Project) -> list[str]:
    """Run the DAG as far as PCA; the stages that ran, and were not restored from the run cache."""
    return re.findall(r"Running stage '(\w+)'", project.run("dvc", "repro", "fit_pca"))


def explained(project: Project) -> float:
    return json.loads((project.folder / "metrics/pca.json").read_text())["explained_variance"]


def test_weights_swapped_under_the_same_name_are_noticed_with_and_without_the_run_cache(project: Project) -> None:
    path, first = project.folder / WEIGHTS, explained(project)
    original, weights = path.read_bytes(), load_file(path)
    weights["model.embed_tokens.weight"] = torch.randn_like(weights["model.embed_tokens.weight"]).cumsum(-1)
    save_file(weights, path, {"format": "pt"})
    assert ran(project) == ["check", "generate_data", "fit_pca"]
    second = explained(project)
    assert second != first
    project.run("git", "checkout", "-q", ".")  # metrics and dvc.lock of the first weights, which the run cache knows
    assert explained(project) == first
    assert ran(project) == ["check"]  # all else is in the run cache, as of the second weights
    assert explained(project) == second
    path.write_bytes(original)
    assert ran(project) == ["check"] and explained(project) == first


def test_a_data_set_that_changed_under_the_same_name_is_noticed(project: Project) -> None:
    path = project.folder / "mine.json"
    content = json.loads(path.read_text())
    paragraphs = content["data"][0]["paragraphs"]
    paragraphs[0]["qas"][0]["question"] += " Say it."
    path.write_text(json.dumps(content))
    assert ran(project)[:2] == ["check", "generate_data"]
    del paragraphs[0]
    path.write_text(json.dumps(content))
    assert ran(project)[:2] == ["check", "generate_data"]


def test_a_pool_that_changed_is_noticed_and_a_broken_one_is_refused_before_any_output_goes(project: Project) -> None:
    path = project.folder / "pools/instructions.yaml"
    path.write_text(path.read_text() + "\n- {category: new, forms: ['Name {topic}.'], topics: [a fox]}\n")
    assert ran(project) == ["check", "generate_data"]
    path.write_text("- {category: new}\n")
    assert "pools/instructions.yaml: 0.forms" in " ".join(project.run("dvc", "repro", "fit_pca", ok=False).split())
    assert (project.folder / "data/qa/train.json").exists()
