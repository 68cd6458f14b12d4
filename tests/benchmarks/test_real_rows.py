"""The rows on a real model can be measured, shown on a tiny one; the ratios mean nothing there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import real
from benchmarks.measure import HEADER
from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad
from narrowband.params import Params


@pytest.fixture(autouse=True)
def small(tmp_path: Path, tiny_model: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write_squad(tmp_path / "questions.json", "questions", [world_example(0, "train", i) for i in range(12)])
    profile = {
        "base_model": str(tiny_model),
        "window": 1,
        "compress_dim": 8,
        "phase2": params.phase2.model_copy(update={"batch_size": 4, "micro_batch": 2}),
        "prompt": params.prompt.model_copy(update={"shots": 1}),
        "generation": params.generation.model_copy(update={"batch_size": 4}),
    }
    monkeypatch.setattr(real, "profile_params", lambda name: params.model_copy(update=profile))
    monkeypatch.setattr(real, "FILE", tmp_path / "questions.json")
    real.setting.cache_clear()
    yield
    real.setting.cache_clear()


@pytest.mark.parametrize("measure", [real.phase1_step, real.phase2_step, real.prefill])
def test_a_row_on_a_real_model_is_measured_and_shown(measure) -> None:
    row = measure()
    assert row.ratio > 0 and all(seconds > 0 for seconds in row.seconds.values())
    assert len(row.cells) == len(HEADER)


def test_what_a_step_keeps_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = real.step_memory()
    lm, codec = real.setting().lm, real.setting().codec
    assert found["weights"] == sum({p.data_ptr(): p.nbytes for m in (lm.model, codec) for p in m.parameters()}.values())
    few = found["kept"]
    params = real.setting().params
    whole = params.model_copy(update={"phase2": params.phase2.model_copy(update={"micro_batch": 0})})
    monkeypatch.setattr(real, "profile_params", lambda name: whole)
    real.setting.cache_clear()
    assert 1.5 * few < real.step_memory()["kept"] < 3 * few
    peak = 2 * (found["weights"] + few)
    monkeypatch.setattr(real, "in_child", lambda *_: {**found, "seconds": 1.0, "peak_bytes": found["imports"] + peak})
    assert real.memory().ratio == pytest.approx(2)
