"""What `accelerate launch` starts two of does what one process does; gloo between processes on the CPU."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from making import seal_questions
from tiny_project import ROOT, contents, copied, link_code

from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad
from narrowband.params import Params
from narrowband.runtime import paths
from narrowband.runtime.files import write_json, write_text

TRAINING = {"steps": 4, "batch_size": 4, "micro_batch": 1, "lr": 1e-2, "warmup": 0, "evaluate_every": 2, "patience": 0}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Path:
    """A folder with small parameters and questions, before anything is fitted."""
    folder = tmp_path_factory.mktemp("projects") / "new"
    folder.mkdir()
    link_code(folder)
    params = Params.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()))
    small = {
        "base_model": str(stopping_model),
        "compress_dim": 16,
        "window": 2,
        "phase1": params.phase1.model_copy(update=TRAINING),
        "phase2": params.phase2.model_copy(update={**TRAINING, "teacher_top_k": 500}),
        "generation": params.generation.model_copy(update={"batch_size": 2}),
        "data": params.data.model_copy(update={"sft_records": 0}),
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params.model_copy(update=small).model_dump()))
    for split, n in (("train", 12), ("validation", 5), ("test", 5)):
        write_squad(folder / paths.QA / f"{split}.json", split, [world_example(0, split, i) for i in range(n)])
    seal_questions(folder / paths.QA, params)
    write_text(folder / paths.SFT / "train.jsonl", "")
    write_json(folder / paths.CHECKED, {})
    return folder


STAGES = """
import runpy, sys

import torch

from narrowband.runtime import distributed

torch.cpu.get_capabilities = dict  # without bfloat16 products, in which a sum of parts rounds differently from the whole

kind, *stages = sys.argv[1:]
del sys.argv[1:]
for stage in stages:
    try:
        runpy.run_path(f"stages/{stage}.py", run_name="__main__")
    except SystemExit as end:
        assert not end.code, stage
    distributed.state().wait_for_everyone()  # the next stage reads what the main process has written

from torch.distributed.tensor import DTensor

from narrowband.lm.frozen import FrozenLM
from narrowband.lm.split import blocks
from narrowband.runtime.parameters import load_params

model = FrozenLM.load(load_params().base_model).model
weights = [p for block in blocks(model) for p in block.parameters()]
held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in weights)
assert held / sum(p.numel() for p in weights) == (0.5 if kind == "use_fsdp" else 1)
"""
"""Stages as a launcher runs them, but importing torch once."""

PHASES = ["uncompressed", "train_phase1", "train_phase2", "evaluate"]


def run(project: Path, kind: str, stages: list[str], launcher: list[str]) -> Path:
    """Run `stages` in a copy of `project`; the copy."""
    folder = copied(project, project.with_name(kind))
    (folder / "stages.py").write_text(STAGES)
    path = f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "stages.py", kind, *stages]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("step 4/4") == 2, "the main process alone prints, at the end of each phase"
    return folder


def losses(folder: Path, phase: str) -> list[float]:
    with (folder / paths.LOG / phase / "plots/metrics/loss.tsv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file, delimiter="\t")]


@pytest.fixture(scope="module")
def alone(project: Path) -> Path:
    return run(project, "alone", ["fit_pca", *PHASES], [])


@pytest.mark.parametrize("kind", ["multi_gpu", "use_fsdp"])
def test_two_processes_have_the_losses_and_answers_of_one(project: Path, alone: Path, kind: str) -> None:
    launch = ["-m", "accelerate.commands.launch", f"--{kind}", "--num_processes=2", "--main_process_port=0"]
    fitted = copied(project, project.with_name(f"{kind} fitted"))
    shutil.copytree(alone / paths.PCA, fitted / paths.PCA)
    together = run(fitted, kind, PHASES, launch)
    for phase in ("phase1", "phase2"):
        expected = losses(alone, phase)
        assert len(expected) == 4 and max(expected) - min(expected) > 5e-4
        assert losses(together, phase) == pytest.approx(expected, rel=0, abs=1e-4)
    for file in (*alone.rglob("predictions_*.json"), *alone.rglob("answers.json")):
        assert json.loads((together / file.relative_to(alone)).read_text()) == json.loads(file.read_text())
    assert {*contents(together), "metrics/pca.json"} == contents(alone).keys()
