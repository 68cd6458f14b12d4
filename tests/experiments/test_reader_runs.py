import json
from pathlib import Path

import pytest

from narrowband.experiments import queue
from narrowband.experiments.positions import ROWS, RUNS, reader_rows, reader_runs
from narrowband.experiments.queue import Experiments, Origin


def test_every_run_sets_its_tokens_per_position_and_no_two_are_alike() -> None:
    runs = reader_runs()
    assert [overrides["reader.tokens_per_position"] for overrides in runs.values()] == [2, 4, 8, 4, 4, 4, 4, 4]
    assert len({tuple(overrides.items()) for overrides in runs.values()}) == len(RUNS)


def row_of(tokens_per_position: int, ablation: str) -> dict[str, object]:
    return {"tokens_per_position": tokens_per_position, "ablation": ablation, "system": "reader"}


def test_rows_are_those_of_readers_and_of_what_those_that_are_no_ablation_are_compared_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ROWS.parent.mkdir()
    earlier = [{**row_of(8, "1500-steps"), "f1": 3.9}, {**row_of(2, ""), "f1": 80.0}]
    ROWS.write_text(json.dumps(earlier))
    span = {"f1_interval": {"low": 90.0, "high": 96.0}}
    row = {"f1": 93.0, "em": 92.0, "agreement": 94.0, "positions_ratio": 1.7, "bits_per_token": 2048.0}
    metrics = {"uncompressed": {"f1": 98.0, "em": 97.0}, "reader": row, "pca": {"f1": 1.0}}
    details = {
        "uncompressed": {**span, "form": {}},
        "reader": span,
        "fewer_positions": {"mean pooling": {**row, **span}},
    }
    monkeypatch.setattr(queue, "read_result", lambda experiments, name, path: details)
    origins = dict.fromkeys(("reader-k2", "reader-k4-short-scratch"), Origin("0123456789abcdef", "def"))
    finished = {"reader-k2": metrics, "reader-k4-short-scratch": metrics, "another": {}}
    rows = reader_rows(Experiments(("abc",), finished, frozenset(), origins))
    about = {"tokens_per_position": 2, "ablation": "", "commit": "0123456789ab"}
    assert rows.pop() == earlier[0]  # the other was run again
    assert rows.pop() == {
        "tokens_per_position": 4,
        "ablation": "short-scratch",
        "commit": "0123456789ab",
        "system": "reader",
        **row,
        "low": 90.0,
        "high": 96.0,
    }
    assert rows == [
        {**about, "system": "uncompressed", "f1": 98.0, "em": 97.0, "low": 90.0, "high": 96.0},
        {**about, "system": "reader", **row, "low": 90.0, "high": 96.0},
        {**about, "system": "mean pooling", **row, "low": 90.0, "high": 96.0},
    ]
