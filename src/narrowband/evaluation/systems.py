"""The systems that are compared, read from the artifacts of a run."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from narrowband.codec.codec import Codec, require_match
from narrowband.codec.coder import LatentCoder
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import embedded
from narrowband.data.encoded import EncodedPrompts
from narrowband.data.prompts import examples_of
from narrowband.data.squad import Example, read_squad
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.evaluation.scoring import Predictions
from narrowband.runtime import paths
from narrowband.runtime.artifacts import CONFIG, checked, read_config, sha256
from narrowband.runtime.files import read_json

CALIBRATION_PROMPTS = 512
"""Training prompts that the scale of `magnitude: calibrated` is fitted on."""


def load_systems(answerer: QuestionAnswerer, config: CodecConfig) -> dict[str, Codec]:
    """`pca`, `phase1` and `phase2`, on the base model's device.

    Raises:
        InputError: an artifact is missing, was changed, or was made with other settings than `config`.
    """
    fitted = Fitted.load(answerer, config)
    return {
        "pca": fitted.codec(pca_only=True),
        "phase1": fitted.trained(paths.PHASE1),
        "phase2": fitted.trained(paths.PHASE2),
    }


@dataclass(frozen=True)
class Fitted:
    """What `fit_pca` left, and the codecs that are made with it, on the base model's device; `pca` is on the CPU."""

    answerer: QuestionAnswerer
    config: CodecConfig
    pca: PCA
    coder: LatentCoder | None

    @classmethod
    def load(cls, answerer: QuestionAnswerer, config: CodecConfig) -> Self:
        """Read `artifacts/pca`.

        Raises:
            InputError: it is missing, was changed, or was made with other settings than `config`.
        """
        pca = PCA.load(paths.PCA, config.geometry)
        return cls(answerer, config, pca, LatentCoder.load(paths.PCA, pca.to(answerer.lm.device), config))

    def codec(self, *, pca_only: bool = False, seed: int = 0) -> Codec:
        """A codec without adapter, or with an untrained one; its scale is fitted if `magnitude` is `calibrated`."""
        answerer = self.answerer
        codec = Codec(self.pca.to(answerer.lm.device), self.config, self.coder, pca_only=pca_only, seed=seed)
        if self.config.magnitude == "calibrated":
            codec.calibrate(embedded(answerer.lm, calibration_prompts(answerer), answerer.batch_size))
        return codec

    def trained(self, folder: Path) -> Codec:
        """The codec that a phase saved in `folder`.

        Raises:
            InputError: it is missing, was changed, or was made with other settings or another PCA.
        """
        adapter = require_match(folder, self.config, self.pca)
        return Codec.load(adapter, self.answerer.lm.device).with_rate(self.config, self.coder)


def calibration_prompts(answerer: QuestionAnswerer) -> EncodedPrompts:
    """The training prompts that the scale of `magnitude: calibrated` is fitted on."""
    return answerer.encode(read_squad(checked(paths.QA / "train.json"))[:CALIBRATION_PROMPTS])


def answer_settings(answerer: QuestionAnswerer, questions: Path, revision: str, source: str) -> dict[str, Any]:
    """What answers are made with, whatever the codec: settings, checksums of worked examples and questions.

    `revision` is that of the base model.
    """
    return {
        "base_model_revision": revision,
        "source": source,
        "prompt": answerer.prompt.model_dump(exclude={"examples"}),
        "examples": hashlib.sha256(examples_of(answerer.prompt).encode()).hexdigest(),
        "max_new_tokens": answerer.max_new_tokens,
        "batch_size": answerer.batch_size,
        "stop": answerer.stop,
        "questions": sha256(questions),
    }


def validation_questions(quick: int) -> list[Example]:
    """The first `quick` questions of the validation split."""
    return read_squad(checked(paths.QA / "validation.json"))[:quick]


def validation_settings(answerer: QuestionAnswerer, revision: str, source: str, quick: int) -> dict[str, Any]:
    """What answers to the first `quick` validation questions are made with, whatever the codec; see `answer_settings`."""
    return {**answer_settings(answerer, paths.QA / "validation.json", revision, source), "quick": quick}


def read_predictions(
    answerer: QuestionAnswerer, config: CodecConfig, questions: Path, systems: Iterable[str]
) -> dict[str, Predictions]:
    """What `evaluate` wrote of each of `systems`.

    Raises:
        InputError: it is missing, was changed, or was made with other settings or artifacts.
    """
    read_config(paths.PREDICTIONS, evaluated(answerer, config, questions))
    return {name: read_json(checked(paths.PREDICTIONS / f"predictions_{name}.json")) for name in systems}


def evaluated(answerer: QuestionAnswerer, config: CodecConfig, questions: Path) -> dict[str, Any]:
    """What predictions were made with: settings, checksums of worked examples, questions and artifact folders."""
    artifacts = {folder.name: sha256(folder / CONFIG) for folder in (paths.PCA, paths.PHASE1, paths.PHASE2)}
    settings = answer_settings(answerer, questions, config.base_model_revision, config.source)
    return {**config.as_json(), **settings, **artifacts}
