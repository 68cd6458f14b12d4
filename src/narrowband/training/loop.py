"""The one training loop: warm-up, cosine decay, clipping, periodic evaluation, best weights, exact resumption."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from narrowband.params import Training
from narrowband.runtime import distributed
from narrowband.runtime.entry import console
from narrowband.runtime.progress import bar
from narrowband.runtime.signals import Stopped, postponed
from narrowband.training.checkpoint import Checkpoint, Progress

CLIP_NORM = 1.0
TIE = 0.5
"""Points of F1 that two scores must differ by to count: another CPU's rounding alone moves one or two answers of 400."""

SAVE_EVERY = 120.0
"""Seconds between checkpoints; each evaluation writes one, too."""


class StepLoss(NamedTuple):
    """A differentiable scalar and the parts of it worth logging, of a batch or of a part of one."""

    loss: Tensor  # []
    parts: dict[str, float]


class Evaluation(NamedTuple):
    """The score that the best weights are chosen by (0 to 100, higher is better) and all metrics worth logging."""

    score: float
    metrics: dict[str, float]


class Outcome(NamedTuple):
    """Trainable weights of the best evaluation, its step and its metrics."""

    best: dict[str, Tensor]
    best_step: int
    best_metrics: dict[str, float]


class Schedule(NamedTuple):
    """Number of steps, warm-up steps (linear), and steps between evaluations.

    The run ends early after `patience` evaluations in a row without improvement, those before step `patient_from` not counted; 0
    never ends it early. Once a score reaches `goal`, the rate decays to 0 up to the next evaluation, the last. Scores that differ
    by `tie` or less are equal.
    """

    steps: int
    warmup: int
    evaluate_every: int
    patience: int = 0
    tie: float = 0.0
    goal: float = math.inf
    patient_from: int = 0

    @classmethod
    def of(cls, training: Training, goal: float) -> "Schedule":
        """The schedule that a section of `params.yaml` asks for; a reader learns nothing about answers in pretraining."""
        patience = training.patience
        goal = goal if patience else math.inf
        patient_from = training.all_steps - training.steps
        return cls(training.all_steps, training.warmup, training.evaluate_every, patience, TIE, goal, patient_from)

    def factor(self, step: int, goal_step: int = -1) -> float:
        """Factor on the learning rate: linear warm-up to 1, cosine decay to 0; from `goal_step` on, linear decay on top."""
        left = 1 - (step - goal_step) / self.evaluate_every if goal_step >= 0 else 1.0
        if step < self.warmup:
            return left * (step + 1) / self.warmup
        return left * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))

    def ends(self, progress: Progress) -> bool:
        """Whether the last step is done, as many as lie between evaluations since the goal was reached, or patience ran out."""
        if progress.step >= self.steps:
            return True
        if progress.goal_step >= 0:
            return progress.step >= progress.goal_step + self.evaluate_every
        since_improved = progress.step - max(progress.improved_step, self.patient_from)
        return 0 < self.patience * self.evaluate_every <= since_improved


@dataclass
class Trainer:
    """Trains `module`, keeps its state in the file `checkpoint`, and passes each step's values to `log`.

    A run that was killed and started again with the same `fingerprint` continues from `checkpoint`.
    """

    module: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    schedule: Schedule
    checkpoint: Path
    fingerprint: str
    log: Callable[[int, Mapping[str, float]], None]
    title: str

    def __post_init__(self) -> None:
        self.trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self.base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.kept = Checkpoint(self.checkpoint, self.fingerprint, self.module, self.optimizers)
        self.progress, self.best = self.kept.load()
        self.due = time.monotonic() + SAVE_EVERY
        if self.progress.step:
            console.print(f"{self.title}: resuming at step {self.progress.step} of {self.schedule.steps}")
        for step, values in self.progress.history:
            self.log(step, values)

    def train(
        self,
        step_losses: Callable[[int], Iterable[StepLoss]],
        evaluate: Callable[[], Evaluation],
        seed: int,
        before: Evaluation | None = None,
    ) -> Outcome:
        """Train the parameters of `module` that require gradients.

        `step_losses(i)` yields the losses of the parts of batch `i` that this process computes; those of all parts in all
        processes add up to the batch's. Everything random in step `i` depends on `seed` and `i` alone, so a run that was killed and
        continued ends with the same weights as one that was not. Weights are evaluated before the first step (`before` is that
        evaluation, if it is known), every `schedule.evaluate_every` steps and after the last; the best are returned.

        Raises:
            FloatingPointError: the loss or the gradient norm is not finite; the last checkpoint is kept.
            Stopped: a signal came; the current step was finished and saved.
        """
        progress, schedule = self.progress, self.schedule
        with bar(self.title, schedule.steps) as advance, postponed() as signalled:
            advance(progress.step)
            self.module.train()
            if progress.best_step < 0:
                self.assess((lambda: before) if before else evaluate)
            while not schedule.ends(progress):
                torch.manual_seed(seed * 1_000_003 + progress.step)
                self.update(step_losses(progress.step))
                advance(1)
                if progress.step % schedule.evaluate_every == 0 or progress.step == schedule.steps:
                    self.assess(evaluate)
                elif signalled() or time.monotonic() > self.due:
                    self.keep()
                if signalled():
                    where = f"{self.title}, stopped at step {progress.step} of {schedule.steps}"
                    raise Stopped(signalled(), where, saved=True)
        return self.outcome()

    def update(self, losses: Iterable[StepLoss]) -> None:
        """Do one step, and log it."""
        progress = self.progress
        _set_rates(self.optimizers, self.base_rates, self.schedule.factor(progress.step, progress.goal_step))
        where = (
            f"{self.title}, step {progress.step} (the best weights, of step {progress.best_step}, are kept in "
            f"{self.checkpoint})"
        )
        values = _update(losses, list(self.trainable.values()), self.optimizers, where)
        progress.step += 1
        self.record(values)

    def outcome(self) -> Outcome:
        """The best weights and their evaluation; says so if the run ended early."""
        progress = self.progress
        if progress.step < self.schedule.steps:
            console.print(f"{self.title}: early stopping at step {progress.step} (best: step {progress.best_step})")
        return Outcome(self.best, progress.best_step, progress.best_metrics)

    def record(self, values: dict[str, float]) -> None:
        """Log values of the last step."""
        self.progress.history.append((self.progress.step, values))
        self.log(self.progress.step, values)

    def assess(self, evaluate: Callable[[], Evaluation]) -> None:
        """Evaluate, keep the weights if they are the best so far, and log the metrics."""
        progress = self.progress
        self.module.eval()
        result = evaluate()
        self.module.train()
        if result.score > progress.improved_score + self.schedule.tie:
            progress.improved_step, progress.improved_score = progress.step, result.score
        # Of equal scores the later one counts, as its loss is lower.
        if result.score >= progress.best_score - self.schedule.tie:
            progress.best_step, progress.best_metrics = progress.step, result.metrics
            for name, p in self.trainable.items():
                self.best.setdefault(name, torch.empty_like(p)).copy_(p.detach())  # in place: never two copies of them
        progress.best_score = max(progress.best_score, result.score)
        if progress.goal_step < 0 and result.score >= self.schedule.goal - self.schedule.tie:
            progress.goal_step = progress.step
        self.record(result.metrics)
        shown = _summary(progress.history[-self.schedule.evaluate_every :])
        console.print(f"{self.title}: step {progress.step}/{self.schedule.steps}  {shown}", highlight=False)
        self.keep()

    def keep(self) -> None:
        """Write a checkpoint."""
        if distributed.is_main():
            self.kept.save(self.progress, self.best)
        self.due = time.monotonic() + SAVE_EVERY


def _summary(history: Sequence[tuple[int, dict[str, float]]]) -> str:
    """The last values, after the mean of the losses before them."""
    losses = [values["loss"] for _, values in history if "loss" in values]
    mean = {"loss": sum(losses) / len(losses)} if losses else {}
    return "  ".join(f"{name} {value:.4g}" for name, value in {**mean, **history[-1][1]}.items())


def _set_rates(
    optimizers: Sequence[torch.optim.Optimizer], base_rates: Sequence[Sequence[float]], factor: float
) -> None:
    for optimizer, rates in zip(optimizers, base_rates, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def _update(
    losses: Iterable[StepLoss],
    trainable: Sequence[nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    where: str,
) -> dict[str, float]:
    """One step of every optimizer along the clipped gradient of the sum of `losses`; the sums of what they log."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    values: dict[str, float] = {}
    for loss, parts in losses:
        loss.backward()
        for name, value in {"loss": loss.item(), **parts}.items():
            values[name] = values.get(name, 0.0) + value
    values = distributed.added_up(values)
    distributed.add_up(p.grad for p in trainable if p.grad is not None)
    norm = nn.utils.clip_grad_norm_(trainable, CLIP_NORM)
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"{where}: loss {values['loss']} with gradient norm {norm.item()}; lower the learning rate or raise the warm-up"
        )
    for optimizer in optimizers:
        optimizer.step()
    # fused optimizers don't, and a codec knows by it that it has changed
    torch.autograd.graph.increment_version(trainable)
    return values
