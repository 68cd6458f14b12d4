"""The files of a run, relative to the folder that holds `params.yaml`; the same paths as in `dvc.yaml`."""

from pathlib import Path

ARTIFACTS = Path("artifacts")
CHECKED = ARTIFACTS / "checked"
QA = Path("data/qa")
SFT = Path("data/sft")
PCA = ARTIFACTS / "pca"
PHASE1 = ARTIFACTS / "phase1"
PHASE2 = ARTIFACTS / "phase2"
READER = ARTIFACTS / "reader"
UNCOMPRESSED = ARTIFACTS / "uncompressed"
REFERENCES = ARTIFACTS / "references"
PREDICTIONS = ARTIFACTS / "evaluate"
LOG = ARTIFACTS / "log"
BUNDLED_MODEL = Path("models/base")
SMOKE_MODEL = Path("models/smoke")
METRICS = Path("metrics")
RESULTS = Path("results")
REPORT = Path("report")
CHECKPOINTS = Path(".checkpoints")
