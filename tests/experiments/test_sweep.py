import json
from pathlib import Path
from typing import Any

import pytest

from narrowband.experiments import queue
from narrowband.experiments.queue import Experiments, Origin
from narrowband.experiments.sweep import (
    BIT_RUNS,
    BITS,
    RUNS,
    SWEEPS,
    Axis,
    SweepRun,
    bit_rows,
    sweep_rows,
    sweep_runs,
)
from narrowband.params import InputError
from narrowband.runtime.parameters import load_params

ROOT = Path(__file__).parent.parent.parent


def test_every_run_has_vectors_that_shrink_by_its_ratio() -> None:
    runs = sweep_runs(256)
    assert set(runs) == {run.name for run in RUNS} and len(runs) == len(RUNS)
    for run in RUNS:
        overrides = runs[run.name]
        assert overrides == {"window": run.window, "seed": run.seed, "compress_dim": overrides["compress_dim"]}
        assert 256 * run.window == int(overrides["compress_dim"]) * run.compression


def test_rows_are_those_of_finished_runs_with_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"f1": 50.0, "em": 40.0, "agreement": 45.0, "cosine": 0.9, "norm_ratio": 1.0, "token_match": 99.0}
    interval = {"f1_interval": {"low": 47.0, "high": 53.0}}
    gain = {"f1_gain": 2.0, "f1_gain_interval": {"low": 1.0, "high": 3.0}, "unseen": {"token_match": 80.0}}
    metrics = dict.fromkeys(("pca", "phase1", "phase2"), row) | {"uncompressed": {"f1": 98.0, "em": 97.0}}
    details = dict.fromkeys(metrics, interval) | {"phase2": {**interval, **gain, "mse": 0.1}}
    name = SweepRun(32, 16, 2).name
    read = {(name, queue.DETAILS): details}  # another experiment may have none
    monkeypatch.setattr(queue, "read_result", lambda experiments, *which: read[which])
    origins = {name: Origin("c" * 40, "exp")}
    rows = sweep_rows(Experiments(("abc",), {name: metrics, "another": {}}, frozenset(), origins))
    assert [row["system"] for row in rows] == ["uncompressed", "pca", "phase1", "phase2"]
    assert "cosine" not in rows[0] and (rows[0]["f1"], rows[0]["low"]) == (98.0, 47.0)
    about = {"compression": 32, "window": 16, "seed": 2, "commit": "c" * 12}
    assert rows[1] == {**about, "system": "pca", **row, "low": 47.0, "high": 53.0}
    assert rows[3] == {**about, "system": "phase2", **row, **gain, "low": 47.0, "high": 53.0}


def row(system: str, setting: str, bits: float) -> dict[str, Any]:
    ends = {name: {"low": 40.0, "high": 60.0} for name in ("f1_interval", "agreement_interval")}
    return {"system": system, "setting": setting, "bits_per_token": bits, "f1": 50.0, "agreement": 55.0, **ends}


def test_every_rate_is_a_run_whose_codecs_and_rivals_are_set_to_it() -> None:
    runs = SWEEPS[Axis.BITS].runs(load_params(ROOT / "params.yaml"), 256)
    assert len(runs) == len(BIT_RUNS)
    same = {"window": 1, "latent_coding.kind": "entropy", "baselines.questions": 500, "seed": 0}
    assert runs["bits-24-seed0"] == {**same, "compress_dim": 6, "latent_coding.bits_per_token": 24}
    states = {"source": "block-1", "prompt.anchor": "codec", "compress_dim": 256, "latent_coding.bits_per_token": 64}
    assert runs["bits-64-block-1-seed0"] == {**same, **states}


def test_rows_of_all_rates_are_put_together_and_what_has_one_rate_stands_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = {
        name: [
            row("pca", f"entropy-coded to {rate} bits", rate - 0.1),
            row("pca", "256 latents of 4 bits", 70),
            row("rotation", "2 levels", 272),
        ]
        for name, rate in (("bits-24-seed0", 24), ("bits-8-seed0", 8), ("bits-64-block-1-seed0", 64))
    }
    monkeypatch.setattr(queue, "read_result", lambda experiments, name, path: {"rows": results[name]})
    origins = {name: Origin("c" * 40, "exp") for name in results}
    rows = bit_rows(Experiments(("abc",), {**results, "another": []}, frozenset(), origins))
    assert {r["commit"] for r in rows} == {"c" * 12}
    assert [(r["source"], r["system"], r["bits_per_token"]) for r in rows] == [
        ("embeddings", "pca", 7.9),
        ("embeddings", "rotation", 272),
        ("embeddings", "pca", 23.9),
        ("block-1", "pca", 63.9),
        ("block-1", "rotation", 272),
    ]
    BITS.parent.mkdir()
    BITS.write_text(json.dumps([{**rows[0], "commit": "old"}, {**rows[0], "source": "block-2", "commit": "old"}]))
    later = bit_rows(Experiments(("abc",), results, frozenset(), origins))
    assert later[:-1] == rows and (later[-1]["source"], later[-1]["commit"]) == ("block-2", "old")


PICTURES = {
    Axis.NUMBERS: ["f1-and-cosine.svg", "f1-and-cosine-window-1.svg"],
    Axis.BITS: ["f1-against-bits.svg", "f1-against-bits-block-1.svg", "f1-against-bits-block-2.svg"],
    Axis.POSITIONS: [],
    Axis.REAL: ["f1-and-cosine-gemma.svg"],
    Axis.REAL_BITS: ["f1-against-bits-gemma.svg"],
}
SHOWN = {
    Axis.NUMBERS: [{"window": 16}, {"window": 1}],
    Axis.BITS: [{"source": "embeddings"}, {"source": "block-1"}, {"source": "block-2"}],
    Axis.POSITIONS: [{}],
    Axis.REAL: [{}],
    Axis.REAL_BITS: [{}],
}


@pytest.mark.parametrize("axis", Axis)
def test_a_sweep_is_written_with_its_pictures(axis: Axis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    swept = SWEEPS[axis]
    figures = {"compression": 4, "cosine": 0.9, "low": 45, "high": 55, "model": "gemma", "control": ""}
    rows = [
        {**row("pca", "entropy-coded to 8 bits", 8.0), "seed": seed, **part, **figures}
        for seed in (0, 1)
        for part in SHOWN[axis]
    ]
    drawn = swept.write(rows)
    assert [picture.name for picture in drawn] == PICTURES[axis]
    assert json.loads(swept.data.read_text()) == rows
    assert all("PCA" in picture.read_text() for picture in drawn)


@pytest.mark.parametrize("axis", Axis)
def test_a_sweep_without_a_finished_run_writes_nothing(
    axis: Axis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    swept = SWEEPS[axis]
    with pytest.raises(InputError, match=f"no run of this sweep has finished, so {swept.data} stays as it is"):
        swept.write(swept.rows(Experiments(("abc",), {}, frozenset(), {})))
