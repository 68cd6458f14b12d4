import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from narrowband.params import Params
from narrowband.training.checkpoint import Progress
from narrowband.training.loop import Evaluation, Outcome, Schedule, StepLoss, Trainer

TARGET = torch.tensor([1.0, -2.0, 3.0])


class KilledError(Exception):
    pass


def run(
    folder: Path, *, kill_at: int | None = None, fingerprint: str = "run", rate: float = 0.1
) -> tuple[Outcome, list]:
    """Fit a vector under noise and dropout; optionally die in the middle of a step."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2))
    logged: list[tuple[int, dict[str, float]]] = []

    def step_losses(step: int) -> list[StepLoss]:
        if step == kill_at:
            raise KilledError
        noise = torch.randn(3, generator=torch.Generator().manual_seed(step))
        return [StepLoss((module(TARGET + 0.1 * noise) - TARGET).square().mean(), {})]

    def evaluate() -> Evaluation:
        error = (module(TARGET) - TARGET).square().mean().item()
        return Evaluation(1 / (1 + error), {"error": error})

    trainer = Trainer(
        module,
        [torch.optim.AdamW(module.parameters(), lr=rate)],
        Schedule(steps=40, warmup=5, evaluate_every=10),
        folder / "state.safetensors",
        fingerprint,
        lambda step, values: logged.append((step, dict(values))),
        "test",
    )
    return trainer.train(step_losses, evaluate, seed=1), logged


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_killed_run_ends_as_an_undisturbed_one(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("narrowband.training.loop.SAVE_EVERY", seconds)
    expected, history = run(tmp_path / "whole")
    for kill_at in (0, 13, 27, 39):
        with pytest.raises(KilledError):
            run(tmp_path / str(kill_at), kill_at=kill_at)
        resumed, resumed_history = run(tmp_path / str(kill_at))
        assert resumed_history == history
        assert resumed.best_step == expected.best_step
        for name, tensor in expected.best.items():
            assert torch.equal(resumed.best[name], tensor)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_is_seen_in_the_versions_of_what_it_trains(tmp_path: Path, fused: bool) -> None:
    """By them, a codec knows that its streams are now those of other weights."""
    module = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(module.parameters(), fused=fused)
    seen = []

    def step_losses(step: int) -> list[StepLoss]:
        seen.append([parameter._version for parameter in module.parameters()])
        return [StepLoss(module(torch.ones(2)).square().sum(), {})]

    trainer = Trainer(module, [optimizer], Schedule(3, 0, 3), tmp_path / "state", "run", lambda *values: None, "test")
    trainer.train(step_losses, lambda: Evaluation(1, {}), seed=0)
    assert all(before < after for pair in pairwise(seen) for before, after in zip(*pair, strict=True))


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(tmp_path, kill_at=35)
    outcome, history = run(tmp_path, fingerprint="another")
    assert history == run(tmp_path / "fresh")[1]
    assert outcome.best_metrics["error"] < history[0][1]["error"] / 10


def test_best_weights_are_those_of_the_best_evaluation(tmp_path: Path) -> None:
    outcome, history = run(tmp_path)
    errors = {step: values["error"] for step, values in history if "error" in values}
    assert outcome.best_step == min(errors, key=lambda step: errors[step])
    assert outcome.best_metrics["error"] == min(errors.values())


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"of step 0, are kept in .*lower the learning rate"):
        run(tmp_path, rate=float("inf"))
    assert (tmp_path / "state.safetensors").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize(
    ("scores", "patience", "tie", "last", "best"),
    [
        ([3, 2, 9, 9, 9], 0, 0, 40, 40),
        ([3, 2, 9, 9, 9], 1, 0, 10, 0),
        ([3, 2, 2, 9, 9], 2, 0, 20, 0),
        ([3, 2, 3, 9, 9], 2, 0, 20, 20),  # as good is no better, and its weights are kept
        ([3, 3, 9, 9, 9], 1, 0, 10, 10),
        ([3, 4, 5, 2, 9], 1, 0, 30, 20),
        ([94, 98.25, 97.75, 99, 99], 1, 0.5, 20, 20),  # one or two answers more or fewer say nothing
        ([94, 98.25, 98.75, 99, 99], 1, 0.5, 20, 20),
        ([94, 98.25, 97.5, 99, 99], 1, 0.5, 20, 10),
        ([94, 94.4, 94.8, 95.2, 95.6], 2, 0.5, 40, 40),  # small steps add up
        ([97, 96.5, 96, 95.5, 95], 0, 0.5, 40, 10),  # and no further down than from the highest
    ],
)
def test_a_run_ends_early_once_patience_runs_out(
    scores: list[float], patience: int, tie: float, last: int, best: int, tmp_path: Path
) -> None:
    assert scored(scores, Schedule(40, 5, 10, patience, tie), tmp_path) == (last, best)


@pytest.mark.parametrize(
    ("scores", "last", "best"),
    [
        ([90, 97.6, 98.5, 99, 99], 20, 20),  # reached at 10: 0.4 points are no difference
        ([90, 97.4, 97.9, 99, 99], 30, 30),
        ([98, 97.4, 99, 99, 99], 10, 0),  # reached before the first step
        ([90, 98, 97, 99, 99], 20, 10),
    ],
)
def test_a_run_ends_at_the_evaluation_after_its_goal_was_reached(
    scores: list[float], last: int, best: int, tmp_path: Path
) -> None:
    assert scored(scores, Schedule(40, 5, 10, 4, tie=0.5, goal=98.0), tmp_path) == (last, best)


def test_patience_that_runs_out_as_the_goal_is_reached_leaves_the_rate_to_decay(tmp_path: Path) -> None:
    schedule = Schedule(50, 5, 10, 2, tie=0.5, goal=98.0)
    assert scored([97.2, 97.4, 97.6, 99, 99, 99], schedule, tmp_path) == (30, 30)


def test_a_reader_may_learn_nothing_about_answers_in_pretraining(params: Params) -> None:
    section = {"patience": 2, "pretrain_steps": 2000, "steps": 3000, "evaluate_every": 500}
    schedule = Schedule.of(params.reader.model_copy(update=section), 98.0)
    assert schedule.steps == 5000
    assert [schedule.ends(Progress(step=step, improved_step=0)) for step in (1000, 2000, 2500, 3000)] == [
        *(False, False, False, True)
    ]


def test_without_patience_there_is_no_goal(params: Params) -> None:
    assert Schedule.of(params.phase1.model_copy(update={"patience": 1}), 98.0).goal == 98
    assert Schedule.of(params.phase1.model_copy(update={"patience": 0}), 98.0).goal == math.inf


def scored(scores: list[float], schedule: Schedule, folder: Path) -> tuple[int, int]:
    """The last step of a run whose evaluations have these scores, and the best one."""
    module, left, steps = nn.Linear(1, 1), iter(scores), []
    trainer = Trainer(
        module,
        [torch.optim.AdamW(module.parameters())],
        schedule,
        folder / "state.safetensors",
        "run",
        lambda step, values: steps.append(step),
        "test",
    )
    outcome = trainer.train(
        lambda step: [StepLoss(module(torch.ones(1)).sum(), {})], lambda: Evaluation(next(left), {}), seed=0
    )
    return steps[-1], outcome.best_step


def test_schedule_warms_up_and_decays_to_nothing() -> None:
    factors = [Schedule(100, 10, 10).factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1
    assert factors[55] == pytest.approx(0.5, abs=0.02)
    assert 0 < factors[99] < 0.001
    assert all(a >= b for a, b in pairwise(factors[9:]))


def test_from_the_goal_on_the_rate_decays_to_nothing_until_the_next_evaluation() -> None:
    schedule = Schedule(100, 10, 20)
    factors = [schedule.factor(step, goal_step=40) / schedule.factor(step) for step in (40, 50, 59)]
    assert factors == pytest.approx([1, 0.5, 1 / 20])
    assert schedule.factor(4, goal_step=0) == pytest.approx(0.5 * 16 / 20)
