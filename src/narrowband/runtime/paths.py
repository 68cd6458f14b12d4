"""Where a run keeps its files, relative to the folder that holds `params.yaml`; `dvc.yaml` names the same ones."""

from pathlib import Path

CHECKED = Path("artifacts/checked")
QA = Path("data/qa")
SFT = Path("data/sft")
PCA = Path("artifacts/pca")
PHASE1 = Path("artifacts/phase1")
PHASE2 = Path("artifacts/phase2")
PREDICTIONS = Path("artifacts/evaluate")
LOG = Path("artifacts/log")
METRICS = Path("metrics")
RESULTS = Path("results")
REPORT = Path("report")
CHECKPOINTS = Path(".checkpoints")
