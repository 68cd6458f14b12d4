from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from narrowband.training.loop import Evaluation, Outcome, Run, Schedule, StepLoss

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

    run = Run(
        module,
        [torch.optim.AdamW(module.parameters(), lr=rate)],
        Schedule(steps=40, warmup=5, evaluate_every=10),
        folder / "state.safetensors",
        fingerprint,
        lambda step, values: logged.append((step, dict(values))),
        Console(quiet=True),
        "test",
    )
    return run.train(step_losses, evaluate, seed=1), logged


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
    module, left, steps = nn.Linear(1, 1), iter(scores), []
    run = Run(
        module,
        [torch.optim.AdamW(module.parameters())],
        Schedule(steps=40, warmup=5, evaluate_every=10, patience=patience, tie=tie),
        tmp_path / "state.safetensors",
        "run",
        lambda step, values: steps.append(step),
        Console(quiet=True),
        "test",
    )
    outcome = run.train(
        lambda step: [StepLoss(module(torch.ones(1)).sum(), {})], lambda: Evaluation(next(left), {}), seed=0
    )
    assert (steps[-1], outcome.best_step) == (last, best)


def test_schedule_warms_up_and_decays_to_nothing() -> None:
    factors = [Schedule(100, 10, 10).factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1
    assert factors[55] == pytest.approx(0.5, abs=0.02)
    assert 0 < factors[99] < 0.001
    assert all(a >= b for a, b in pairwise(factors[9:]))
