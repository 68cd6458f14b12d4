"""A training phase from files to files: what the stages of Phase 1, Phase 2 and the reader have in common."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from rich.text import Text
from torch import nn

from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.data.prompts import encode_answer
from narrowband.data.squad import Example, read_squad
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.evaluation.systems import Fitted, validation_questions, validation_settings
from narrowband.evaluation.tokens import marked, token_view
from narrowband.evaluation.uncompressed import read_uncompressed
from narrowband.lm.base_model import max_positions
from narrowband.lm.device import mixed_precision
from narrowband.params import Training
from narrowband.runtime import distributed, paths
from narrowband.runtime.artifacts import read_config
from narrowband.runtime.entry import console
from narrowband.runtime.files import write_json, write_text
from narrowband.runtime.progress import bar
from narrowband.runtime.rounding import rounded
from narrowband.training.alarms import alarms
from narrowband.training.loop import Evaluation, Schedule, StepLoss, Trainer
from narrowband.training.micro_batches import Part, PhaseLoss, own_parts
from narrowband.training.phase2 import Lesson

if TYPE_CHECKING:
    from dvclive import Live

PHASE_FIGURES = ("f1", "cosine", "norm_ratio", "best_step", "sft_kl")
"""Figures on validation questions (`sft_kl`: on held-out records) that are written to `metrics/PHASE.json`, those of the reader to
`results/reader.json`."""

VALIDATION = "validation"
"""Key in a phase's `config.json`: the figures of its best evaluation on validation questions."""

VALIDATED_WITH = "validated_with"
"""Key in a phase's `config.json`: see `validated_with`."""


class StepLog:
    """Logs every step to DVCLive, and the evaluations among them to `evaluations.csv` as well, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._evaluations: list[dict[str, float]] = []

    @cached_property
    def _live(self) -> "Live":
        """Opened at the first step, because opening it deletes the log of an earlier run."""
        from dvclive import Live  # slow to import

        return Live(str(self.folder), dvcyaml=None, save_dvc_exp=False, report=None)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step."""
        self._live.step = step
        if "f1" in values:
            self._evaluations.append({"step": step, **values})
        for name, value in values.items():
            self._live.log_metric(name, value, plot=True)

    def close(self) -> None:
        """Finish the log and write `evaluations.csv`."""
        self._live.end()
        names = list(self._evaluations[0])
        rows = [",".join(f"{row[name]:.6g}" for name in names) for row in self._evaluations]
        write_text(self.folder / "evaluations.csv", "\n".join([",".join(names), *rows]) + "\n")


def read_lessons(answerer: QuestionAnswerer, path: Path) -> list[Lesson]:
    """The questions of a QA file with their first gold answers, of which as much is taken as the model has positions for."""
    examples, positions = read_squad(path), max_positions(answerer.lm.model)
    answers = (encode_answer(answerer.lm.tokenizer, example.golds[0]) for example in examples)
    pairs = zip(answerer.encode(examples), answers, strict=True)
    return [Lesson(prompt, answer[: positions and positions - len(prompt.ids)]) for prompt, answer in pairs]


@runtime_checkable
class Savable(Protocol):
    """A trained module that writes itself to a folder, with the settings it was trained with."""

    def save(self, folder: Path, trained_with: Mapping[str, Any]) -> None:
        """Write the weights, and `config.json` with `trained_with` and the module's own settings."""


@dataclass(frozen=True)
class PhaseRun:
    """One run of a phase; `fingerprint` identifies its inputs, so that no other run resumes its checkpoint.

    `goal` is the F1 at which nothing is left to win back, see `Schedule`.
    """

    name: Literal["phase1", "phase2", "reader"]
    training: Training
    seed: int
    fingerprint: str
    goal: float = math.inf

    def train(
        self,
        module: nn.Module,
        loss: PhaseLoss,
        n_lessons: int,
        evaluate: Callable[[], Evaluation],
        before: Evaluation | None = None,
    ) -> dict[str, float]:
        """Train the parameters of `module` that require gradients and load the best ones; return their evaluation's figures.

        `n_lessons` is the number of questions, or of SFT records if fewer, that batches are drawn from; `before` is the
        evaluation of the weights as they are, if it is known.
        """
        trainable = [p for p in module.parameters() if p.requires_grad]
        console.print(f"{self.name}: {sum(p.numel() for p in trainable):,} trainable parameters")
        steps = StepLog(paths.LOG / self.name) if distributed.is_main() else None
        trainer = Trainer(
            module,
            [torch.optim.AdamW(trainable, lr=self.training.lr, fused=True)],
            Schedule.of(self.training, self.goal),
            self.checkpoint,
            self.fingerprint,
            steps.record if steps else lambda step, values: None,
            self.name,
        )
        outcome = trainer.train(self._step_losses(loss, n_lessons), evaluate, self.seed, before)
        module.load_state_dict(outcome.best, strict=False)
        if steps:
            steps.close()
        return {**outcome.best_metrics, "best_step": outcome.best_step}

    def save(self, module: Savable, figures: Mapping[str, float], trained_with: Mapping[str, Any]) -> None:
        """Write the module and the headline of its figures; delete the checkpoint."""
        if not distributed.is_main():
            return
        validation = {name: value for name, value in figures.items() if name not in ("best_step", "sft_kl")}
        settings = {"phase": self.name, "seed": self.seed, "training": self.training.model_dump()}
        module.save(paths.ARTIFACTS / self.name, {**settings, VALIDATION: validation, **trained_with})
        headline = {name: value for name, value in figures.items() if name in PHASE_FIGURES}
        folder = paths.RESULTS if self.name == "reader" else paths.METRICS  # metrics hold 40 numbers at most
        write_json(folder / f"{self.name}.json", rounded(headline))
        self.checkpoint.unlink()

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that an interrupted run continues from."""
        return paths.CHECKPOINTS / f"{self.name}.safetensors"

    def _step_losses(self, loss: PhaseLoss, n_lessons: int) -> Callable[[int], Iterable[StepLoss]]:
        """The losses of the parts of a step's batch that this process computes."""
        parts = own_parts(min(self.training.batch_size, n_lessons), self.training.micro_batch)

        def of_part(step: int, part: Part) -> StepLoss:
            with mixed_precision():
                return loss(step, part)

        return lambda step: (of_part(step, part) for part in parts)


def quick_evaluation(
    phase: str, answerer: QuestionAnswerer, codec: Codec, examples: Sequence[Example]
) -> Callable[[], Evaluation]:
    """An evaluation on `examples` that also prints the first of them with its reconstructed tokens."""
    first = examples[0]
    (prompt,) = answerer.encode([first])

    def evaluate() -> Evaluation:
        with bar("validation questions", len(examples)) as advance:
            result = answerer.answer(codec, examples, advance=advance)
        said = f"{phase}: expected {first.golds[0]!r}, answered {result.predictions[first.id]!r}"
        if answerer.lm.sender_blocks:  # states have no nearest tokens
            console.print(said)
        else:
            console.print(f"{said} to", marked(token_view(answerer.lm, codec, prompt)))
        for sentence in alarms(result, examples, phase):
            console.print(Text.assemble((f"{phase}, warning:", "bold red"), f" {sentence}"))
        return Evaluation(result.f1, {"f1": result.f1, "em": result.em, **result.quality})

    return evaluate


def uncompressed_f1(answerer: QuestionAnswerer, config: CodecConfig, quick: int) -> float:
    """F1 of the uncompressed model on the validation questions of quick evaluations: what there is to win back.

    Raises:
        InputError: the model's answers are missing, were changed, or were made with other settings.
    """
    settings = validation_settings(answerer, config.base_model_revision, config.source, quick)
    return read_uncompressed("validation", validation_questions(quick), settings).f1


def validated_with(answerer: QuestionAnswerer, config: CodecConfig, quick: int) -> dict[str, Any]:
    """What the figures of quick evaluations depend on, beside the weights."""
    return {
        **validation_settings(answerer, config.base_model_revision, config.source, quick),
        "latent_bits": config.latent_bits,
        "latent_coding": config.as_json()["latent_coding"],
    }


def known_evaluation(folder: Path, settings: Mapping[str, Any]) -> Evaluation | None:
    """The best evaluation of the codec that a phase saved in `folder`; `None` if it was not made with `settings`.

    Raises:
        InputError: the folder is not complete, or was changed.
    """
    saved = read_config(folder)
    if saved.get(VALIDATED_WITH) != settings:
        return None
    return Evaluation(saved[VALIDATION]["f1"], saved[VALIDATION])


def starting_codec(
    answerer: QuestionAnswerer, config: CodecConfig, start: Literal["phase1", "scratch"], seed: int
) -> Codec:
    """The codec that a phase starts from: that of Phase 1, or a new one.

    Raises:
        InputError: an artifact is missing, was changed, or was made with other settings than `config`.
    """
    fitted = Fitted.load(answerer, config)
    return fitted.trained(paths.PHASE1) if start == "phase1" else fitted.codec(seed=seed)
