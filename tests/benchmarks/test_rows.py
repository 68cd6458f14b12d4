"""Every row can be measured, shown at sizes that take no time; the ratios mean nothing at these."""

import math

import pytest
import torch

from benchmarks import evaluation, measure, pca, profile, run, scaling, startup, training
from narrowband.lm.frozen import FrozenLM

SMALL = {
    pca: {
        "COMPRESS": 16,
        "VOCABULARY": 500,
        "HIDDEN": 64,
        "TOKENS": 20_000,
        "WINDOW": 2,
        "PROMPTS": 100,
    },
    training: {"WIDTH": 256, "TOKENS": 64},
    evaluation: {"QUESTIONS": 6, "ALONE": 2, "AFTER": 4, "TEST": 6},
    startup: {"STAGES": ["fit_pca"]},
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, constants in SMALL.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(pca, "growth", lambda function, few, many: 1.0)
    once = measure.interleaved
    for module in (pca, training, evaluation, startup, profile, scaling):
        monkeypatch.setattr(module, "interleaved", lambda runs, repetitions: once(runs, 1))


@pytest.mark.parametrize("name", run.ROWS)
def test_a_row_is_measured_and_shown(name: str) -> None:
    row = run.ROWS[name]()
    assert math.isfinite(row.ratio) and all(seconds > 0 for seconds in row.seconds.values())
    assert ("largest_principal_angle" in row.checks) == name.startswith("pca")
    assert row.checks.get("largest_principal_angle", 0) < 1e-3
    assert len(row.cells) == len(measure.HEADER)


def test_steps_of_rows_that_have_ended_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor([[5, 9, 9, 9], [5, 2, 2, 2], [5, 9, 2, 2]])  # 2 pads
    monkeypatch.setattr(FrozenLM, "greedy", lambda *arguments, **prompt: rows)
    monkeypatch.setattr(evaluation, "interleaved", lambda *arguments: {"first tokens": 3.0, "answers": 4.0})
    monkeypatch.setattr(evaluation, "TEST", 3)
    row = evaluation.decoding()
    assert row.ratio == 0.25
    assert row.checks["share of steps of rows that have ended"] == pytest.approx(5 / 9)


@pytest.mark.parametrize("window", [1, 16])
def test_streams_have_the_rate_that_was_asked_for(window: int) -> None:
    assert evaluation.streams_cost(window).checks["bits_a_token"] == pytest.approx(evaluation.BITS, rel=0.1)


@pytest.mark.parametrize(("fit", "n"), [(pca.fit_tokens, 2_000), (pca.fit_windows, 2)])
def test_what_a_child_fits_for_its_memory(fit, n: int) -> None:
    assert fit(n)["components"] == pca.COMPRESS


@pytest.mark.parametrize("parts", [profile.pca_parts, lambda: profile.phase_parts("phase1"), profile.evaluation_parts])
def test_the_parts_of_a_stage_take_time_and_have_a_floor(parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "WINDOW", 1)
    found = parts()
    assert all(part.seconds > 0 and part.calls > 0 for part in found)
    assert any(part.floor(peak=1e9, bytes_a_second=1e9) > 0 for part in found)
    assert profile.Part("", "", 1, 1.0, flops=6, bytes=8).floor(peak=2, bytes_a_second=4) == 3


@pytest.mark.parametrize("stage", ["fit_pca", "train_phase1", "train_phase2", "evaluate"])
@pytest.mark.parametrize("vector_dim", [256, 512])
def test_a_point_of_the_scaling_is_measured(stage: str, vector_dim: int) -> None:
    assert scaling.measure(stage, tokens=256, vector_dim=vector_dim, compress_dim=8)["best"] > 0
