"""The same commands give the same metrics: to the byte on the same machine, within tolerance on other threads."""

import json
from pathlib import Path

import pytest
from tiny_project import ROOT, contents, finish_all, make_project

from narrowband.experiments.verify import compare_metrics, read_tolerances


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> dict[str, Path]:
    """Projects whose stages have run on one thread, on one again, and on two."""
    folders = {}
    for name, threads in (("one", 1), ("again", 1), ("two", 2)):
        folders[name] = tmp_path_factory.mktemp(name)
        make_project(folders[name], stopping_model)
        finish_all(folders[name], threads)
    return folders


def test_the_same_run_gives_the_same_bytes(made: dict[str, Path]) -> None:
    assert contents(made["again"]) == contents(made["one"])


def test_two_threads_stay_within_tolerance_of_one(made: dict[str, Path]) -> None:
    one, two = (
        {
            f"{folder}/{path.name}": json.loads(path.read_text())
            for folder in ("metrics", "results")
            for path in (made[name] / folder).glob("*.json")
        }
        for name in ("one", "two")
    )
    drifts = compare_metrics(one, two, read_tolerances(ROOT / "metrics" / "tolerance.yaml"))
    compared = {drift.name.partition(".json")[0] for drift in drifts}
    assert compared == {
        *(f"metrics/{name}" for name in ("data", "pca", "phase1", "phase2", "evaluate")),
        *(f"results/{name}" for name in ("baselines", "data", "diagnosis", "evaluate", "reader")),
    }
    assert [drift for drift in drifts if not drift.ok] == []
