"""The systems that are compared, read from the artifacts of a run."""

import hashlib
from pathlib import Path
from typing import Any

from narrowband.codec.codec import Codec, require_match
from narrowband.codec.coder import LatentCoder
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import CALIBRATION_PROMPTS, embedded
from narrowband.data.encoded import EncodedPrompts
from narrowband.data.prompts import examples_of
from narrowband.data.squad import read_squad
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.runtime import paths
from narrowband.runtime.artifacts import CONFIG, checked, sha256


def load_systems(answerer: QuestionAnswerer, config: CodecConfig) -> dict[str, Codec | None]:
    """`uncompressed` (no codec), `pca`, `phase1` and `phase2`, on the base model's device.

    Raises:
        InputError: an artifact is missing, was changed, or was made with other settings than `config`.
    """
    device = answerer.lm.device
    pca = PCA.load(paths.PCA, config.geometry)
    coder = LatentCoder.load(paths.PCA, pca.to(device), config)
    pca_only = Codec(pca.to(device), config, coder, pca_only=True)
    if config.magnitude == "calibrated":
        pca_only.calibrate(embedded(answerer.lm, calibration_prompts(answerer), answerer.batch_size))
    trained = {
        name: Codec.load(require_match(folder, config, pca), device).with_rate(config, coder)
        for name, folder in (("phase1", paths.PHASE1), ("phase2", paths.PHASE2))
    }
    return {"uncompressed": None, "pca": pca_only, **trained}


def calibration_prompts(answerer: QuestionAnswerer) -> EncodedPrompts:
    """The training prompts that the scale of `magnitude: calibrated` is fitted on."""
    return answerer.encode(read_squad(checked(paths.QA / "train.json"))[:CALIBRATION_PROMPTS])


def evaluated(answerer: QuestionAnswerer, config: CodecConfig, questions: Path) -> dict[str, Any]:
    """What predictions were made with: settings, checksums of worked examples, questions and artifact folders."""
    artifacts = (paths.PCA, paths.PHASE1, paths.PHASE2)
    return {
        **config.as_json(),
        "prompt": answerer.prompt.model_dump(exclude={"examples"}),
        "examples": hashlib.sha256(examples_of(answerer.prompt).encode()).hexdigest(),
        "max_new_tokens": answerer.max_new_tokens,
        "batch_size": answerer.batch_size,
        "stop": answerer.stop,
        "questions": sha256([questions]),
        **{folder.name: sha256([folder / CONFIG]) for folder in artifacts},
    }
