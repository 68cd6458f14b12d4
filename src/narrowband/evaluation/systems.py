"""The systems that are compared, read from the artifacts of a run."""

from pathlib import Path
from typing import Any

from narrowband.codec.batches import CALIBRATION_PROMPTS, embedded
from narrowband.codec.codec import Codec
from narrowband.codec.geometry import geometry
from narrowband.codec.pca import PCA
from narrowband.data.prompts import encode_prompt
from narrowband.data.squad import read_squad
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime.artifacts import CONFIG, checked, sha256


def load_systems(
    lm: FrozenLM, qa: Path, pca: Path, phase1: Path, phase2: Path, params: Params
) -> dict[str, Codec | None]:
    """`uncompressed` (no codec), `pca`, `phase1` and `phase2`; QA is read where PCA needs the scale of `calibrated`."""
    fitted = PCA.load(pca, params).to(lm.device)
    pca_only = Codec(fitted, lm.hidden_size, params, pca_only=True)
    if params.magnitude == "calibrated":
        train = read_squad(checked(qa / "train.json"))[:CALIBRATION_PROMPTS]
        prompts = [encode_prompt(lm.tokenizer, e.context, e.question, params.prompt) for e in train]
        pca_only.calibrate(embedded(lm, prompts, params.generation.batch_size))
    return {
        "uncompressed": None,
        "pca": pca_only,
        "phase1": Codec.load(phase1, fitted, lm.hidden_size, params),
        "phase2": Codec.load(phase2, fitted, lm.hidden_size, params),
    }


def evaluated(params: Params, questions: Path, *artifacts: Path) -> dict[str, Any]:
    """What predictions were made with: base model, parameters, checksums of the questions and of the artifact folders."""
    settings = params.model_dump(include={"base_model", "magnitude", "latent_bits", "adapter", "prompt", "generation"})
    inputs = {"questions": sha256([questions]), **{folder.name: sha256([folder / CONFIG]) for folder in artifacts}}
    return {**geometry(params), **settings, **inputs}
