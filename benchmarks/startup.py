"""How long a stage takes to import what it needs and to reach its parameters."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Row, interleaved

STAGES = Path(__file__).parent.parent / "stages"

ARGUMENTS = {"fit_pca": 3, "train_phase1": 5, "train_phase2": 7, "evaluate": 6, "baselines": 5, "diagnose": 10}
"""Paths that each stage takes."""


def start(stage: str, folder: str) -> None:
    """Run a stage where there are no parameters: it imports, sets up torch, looks for them and stops."""
    command = [sys.executable, str(STAGES / f"{stage}.py"), *["nowhere"] * ARGUMENTS[stage]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 2 or "params.yaml does not exist" not in done.stderr:
        raise RuntimeError(f"{stage} did not stop at its parameters:\n{done.stderr}")


def import_libraries() -> None:
    """Import what loading and running any model takes, and nothing of this project."""
    code = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel"
    subprocess.run([sys.executable, "-c", code], check=True)


def slowest_start() -> Row:
    """The slowest of all stages."""
    with tempfile.TemporaryDirectory() as folder:
        starts = {stage: lambda stage=stage: start(stage, folder) for stage in ARGUMENTS}
        times = interleaved({"torch and transformers alone": import_libraries, **starts}, 3)
    alone = times["torch and transformers alone"]
    return Row(
        "seconds to import and start a stage that has nothing to do",
        max(times[stage] for stage in ARGUMENTS),
        2.5,
        False,
        times,
        floor=f"importing torch and transformers' model class alone takes {alone:.1f} s",
    )
