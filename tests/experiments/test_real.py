import json
from pathlib import Path
from typing import Any

import pytest

from narrowband.experiments import queue, real
from narrowband.experiments.queue import Experiments, Origin
from narrowband.params import InputError
from narrowband.runtime.parameters import load_params

INTERVAL = {"f1_interval": {"low": 10.0, "high": 20.0}}
UNSEEN = {"share": 0.1, "cosine": 0.6, "token_match": 18.0}


def finished(f1: float) -> dict[str, Any]:
    return {name: {"f1": f1, "em": 5.0, "mse": 1.0} for name in real.SYSTEMS}


@pytest.mark.parametrize(
    ("base_model", "name"),
    [
        ("models/base", "base"),
        ("somewhere/Gemma-3-270m-Q4_K_M.gguf", "gemma-3-270m-q4_k_m"),
        ("meta-llama/Llama-3.1-8B@main", "llama-3.1-8b"),
    ],
)
def test_a_model_is_named_by_the_last_part_of_its_path(base_model: str, name: str) -> None:
    assert real.model_name(base_model) == name


def test_runs_name_local_files_by_absolute_paths_and_hub_ids_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nq.json").touch()
    chosen = params.model_copy(
        update={"base_model": "HuggingFaceTB/SmolLM2-135M", "dataset": "nq.json", "test_dataset": None, "window": 1}
    )
    runs = real.real_runs(chosen, 576)
    assert len(runs) == len(real.RUNS)
    assert runs["smollm2-135m-16x"] == {"dataset": str(tmp_path / "nq.json"), "compress_dim": 36}
    assert runs["smollm2-135m-1x-full-rate"]["compress_dim"] == 576
    assert runs["smollm2-135m-16x-kl-alone"]["loss.phase2.cross_entropy"] == 0


def starting_from(commit: str, finished: dict[str, dict[str, Any]]) -> Experiments:
    return Experiments((commit,), finished, frozenset(), {name: Origin(commit, name) for name in finished})


def test_rows_of_new_runs_replace_earlier_ones_and_all_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        queue, "read_result", lambda experiments, name, path: {s: {**INTERVAL, "unseen": UNSEEN} for s in real.SYSTEMS}
    )
    real.ROWS.parent.mkdir()
    first = {"gemma-4x": finished(30), "gemma-16x-layernorm": finished(0)}
    real.ROWS.write_text(json.dumps(real.real_rows(starting_from("a" * 40, first))))
    names = {"gemma-4x": finished(31), "gemma-16x-layernorm-token": finished(2), "sweep-4x-window1-seed0": {}}
    rows = real.real_rows(starting_from("b" * 40, names))
    assert {(row["compression"], row["control"], row["commit"][0], row["f1"]) for row in rows} == {
        (4, "", "b", 31),
        (16, "layernorm", "a", 0),
        (16, "layernorm-token", "b", 2),
    }
    assert len(rows) == 3 * len(real.SYSTEMS)
    assert rows[0]["unseen"] == UNSEEN and rows[0]["low"] == 10 and "mse" not in rows[0]


def baseline(system: str, setting: str, f1: float) -> dict[str, Any]:
    return {"system": system, "setting": setting, "f1": f1}


def test_rows_at_measured_bits_are_of_the_run_that_was_trained_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    coded, grid = ("phase2", "entropy-coded to 32 bits"), ("phase2", "40 latents of 4 bits")
    results = {
        "gemma-16x-bits": [baseline(*coded, 0), baseline(*grid, 24)],
        "gemma-32-bits": [baseline(*coded, 20), baseline(*grid, 1)],
        "gemma-16x": [],
    }
    monkeypatch.setattr(queue, "read_result", lambda experiments, name, path: {"rows": results[name]})
    found = real.real_bit_rows(starting_from("a" * 40, {name: {} for name in results}))
    assert [(row["setting"], row["f1"]) for row in found] == [(coded[1], 20), (grid[1], 1)]
    real.BIT_ROWS.parent.mkdir()
    real.BIT_ROWS.write_text(json.dumps([{**found[0], "model": "other"}, *found]))
    later = real.real_bit_rows(starting_from("b" * 40, {"gemma-16x-bits": {}}))
    assert [(row["model"], row["commit"][0], row["f1"]) for row in later] == [
        *(("gemma", "b", 0), ("gemma", "b", 24)),
        ("other", "a", 20),
    ]


def test_runs_at_measured_bits_are_at_16x(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params()
    monkeypatch.chdir(tmp_path)
    runs = real.real_bit_runs(params, 256)
    at_16 = {"compress_dim": 256, "baselines.questions": real.QUESTIONS}
    coded = {"latent_coding.kind": "entropy", "latent_coding.bits_per_token": 32}
    assert runs["base-16x-bits"] == at_16 and runs["base-32-bits"] == at_16 | coded


def test_damaged_rows_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    real.ROWS.parent.mkdir()
    real.ROWS.write_text("[{")
    with pytest.raises(InputError, match=r"docs/real-models.json is not JSON .* restore it from Git"):
        real.real_rows(starting_from("a" * 40, {}))
