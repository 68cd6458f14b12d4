"""How long a stage takes to refuse missing parameters, and how long it takes to import all that it needs."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.measure import Row, interleaved
from narrowband.runtime.files import read_yaml, write_json
from narrowband.runtime.paths import CHECKED

ROOT = Path(__file__).parent.parent

STAGES = [
    *("check", "generate_data", "uncompressed", "references"),
    *("fit_pca", "train_phase1", "train_phase2", "train_reader"),
    *("evaluate", "baselines", "diagnose"),
]
"""Every stage with parameters."""

LATER = {
    "check": ("huggingface_hub", "narrowband.experiments.examine"),
    "generate_data": ("huggingface_hub", "scipy.stats"),
    **dict.fromkeys(("train_phase1", "train_phase2", "train_reader"), ("dvclive",)),
    "references": ("scipy.stats", "sklearn.cluster"),
    **dict.fromkeys(("evaluate", "baselines"), ("scipy.stats",)),
    "diagnose": ("narrowband.report.charts",),
}
"""What stages import after they have looked for the base model."""

SMALL = {"train": 1, "validation": 1, "test": 1, "sft_records": 1}
"""Sizes with which `generate_data` needs no time before it looks for the base model."""


def refused(stage: str, folder: Path, sentence: str, modules: Sequence[str] = ()) -> None:
    """Run a stage, in a process that imports `modules` too, in a folder where it must stop with a sentence."""
    imports = ", ".join(("runpy", "sys", *modules))
    code = f"import {imports}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "stages" / f"{stage}.py")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 2 or sentence not in done.stderr:
        raise RuntimeError(f"{stage} did not stop with {sentence!r}:\n{done.stderr}")


def started(stage: str, folder: Path) -> None:
    """Import all that a stage imports, in a folder without a base model."""
    refused(stage, folder, "base_model ./nothing", LATER.get(stage, ()))


def make_modelless(folder: Path) -> None:
    """A project whose stages have all that they need but the base model, and refuse `./nothing` after their imports."""
    for link in ("pools", "src", "stages", "dvc.yaml"):
        (folder / link).symlink_to(ROOT / link)
    write_json(folder / CHECKED, {})
    params = read_yaml(ROOT / "params.yaml")
    reader = {**params["reader"], "tokens_per_position": 2}  # or it has nothing to train
    changed = {**params, "base_model": "./nothing", "reader": reader, "data": {**params["data"], **SMALL}}
    (folder / "params.yaml").write_text(yaml.safe_dump(changed))


def import_libraries() -> None:
    """Import what is needed to load and run the bundled model, and nothing from this project."""
    code = "import torch; from transformers import LlamaForCausalLM, PreTrainedTokenizerFast"
    subprocess.run([sys.executable, "-c", code], check=True)


def slowest_start() -> Row:
    """Time of the slowest stage to import everything and report a missing base model; also, to report missing parameters.

    A stage reads its parameters first, and imports torch and transformers before it looks for the base model. What it imports
    later is imported, too.
    """
    with tempfile.TemporaryDirectory() as name:
        empty, modelless = Path(name, "empty"), Path(name, "modelless")
        empty.mkdir()
        modelless.mkdir()
        make_modelless(modelless)
        asks = {stage: lambda stage=stage: refused(stage, empty, "params.yaml does not exist") for stage in STAGES}
        starts = {stage: lambda stage=stage: started(stage, modelless) for stage in STAGES}
        libraries = interleaved({"torch and the model's class alone": import_libraries}, 3)
        no_parameters, imports = max(interleaved(asks, 3).values()), interleaved(starts, 3)
    slowest = max(imports, key=lambda stage: imports[stage])
    alone = libraries["torch and the model's class alone"]
    return Row(
        "time for the slowest stage to import what it needs, against torch and the model's own class",
        imports[slowest] / alone,
        1.25,
        False,
        {"slowest stage": imports[slowest], **libraries, "slowest to refuse missing parameters": no_parameters},
        floor=f"{slowest} imports {' and '.join((*LATER.get(slowest, ()), 'what all stages need'))}",
    )
