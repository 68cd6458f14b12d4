import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from narrowband.experiments.verify import compare_metrics, read_tolerances
from narrowband.params import InputError

TOLERANCES = {"*.f1": 2.0, "*_interval.*": 5.0, "*": 0.0}


def test_each_metric_is_held_to_the_first_tolerance_that_fits() -> None:
    expected = {"pca": {"f1": 50.0, "f1_interval": {"low": 48.0, "high": 52.0}}, "ratio": 16}
    found = {"pca": {"f1": 52.5, "f1_interval": {"low": 49.0, "high": 56.0}}, "ratio": 16.0}
    drifts = {drift.name: drift for drift in compare_metrics(expected, found, TOLERANCES)}
    assert {name: drift.ok for name, drift in drifts.items()} == {
        "pca.f1": False,
        "pca.f1_interval.low": True,
        "pca.f1_interval.high": True,
        "ratio": True,
    }
    assert drifts["pca.f1"].difference == 2.5


def test_rows_of_a_list_are_compared_by_their_place_and_text_is_left_out() -> None:
    expected = {"rows": [{"system": "pca", "f1": 1.0}, {"system": "phase1", "f1": 2.0}]}
    found = {"rows": [{"system": "pca", "f1": 1.5}, {"system": "phase1", "f1": 9.0}]}
    drifts = compare_metrics(expected, found, {"*.f1": 2.0})
    assert [(drift.name, drift.ok) for drift in drifts] == [("rows.0.f1", True), ("rows.1.f1", False)]


@pytest.mark.parametrize(("expected", "found"), [({"a": 1}, {}), ({}, {"a": 1}), ({"a": 1}, {"a": float("nan")})])
def test_a_metric_that_is_missing_or_no_number_drifts(expected: dict, found: dict) -> None:
    (drift,) = compare_metrics(expected, found, {"*": 1e9})
    assert not drift.ok


def test_a_metric_without_a_tolerance_is_refused() -> None:
    with pytest.raises(InputError, match="no tolerance is given for metric cosine"):
        compare_metrics({"cosine": 1}, {"cosine": 1}, {"f1": 1})


def test_a_null_is_no_metric() -> None:
    assert compare_metrics({"a": None}, {"a": None}, {"*": 1}) == []
    (drift,) = compare_metrics({"a": None}, {"a": 1}, {"*": 1})
    assert not drift.ok and drift.expected is None


def test_text_is_not_compared() -> None:
    expected, found = ({"verdicts": {"bos": {"evidence": text}}, "f1": 1} for text in ("F1 1.0", "F1 1.1"))
    assert [drift.name for drift in compare_metrics(expected, found, {"*": 0.0})] == ["f1"]


@pytest.mark.parametrize("text", ["", "3", "a: -1", "a: b", "a: .nan", "a: ["])
def test_a_file_of_no_tolerances_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tolerance.yaml"
    with pytest.raises(InputError, match="restore it from Git"):
        read_tolerances(path)
    path.write_text(text)
    with pytest.raises(InputError, match="restore it from Git"):
        read_tolerances(path)


def test_the_committed_tolerances_keep_their_order() -> None:
    tolerances = read_tolerances(Path(__file__).parent.parent.parent / "metrics" / "tolerance.yaml")
    assert list(tolerances)[-1] == "*"


def test_every_committed_tolerance_is_used_by_a_committed_metric() -> None:
    root = Path(__file__).parent.parent.parent
    tolerances = read_tolerances(root / "metrics" / "tolerance.yaml")
    committed = {
        f"{folder}/{path.name}": json.loads(path.read_text())
        for folder in ("metrics", "results")
        for path in (root / folder).glob("*.json")
    }
    used = set()
    for drift in compare_metrics(committed, committed, tolerances):
        used.add(next(pattern for pattern in tolerances if fnmatchcase(drift.name, pattern)))
    assert used == set(tolerances)
