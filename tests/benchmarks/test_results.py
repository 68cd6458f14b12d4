import json
from pathlib import Path

import pytest

from benchmarks import measure, results
from benchmarks.measure import Row
from benchmarks.scaling import exponent


@pytest.mark.parametrize(("ratio", "at_least", "met"), [(2, True, True), (0.9, True, False), (2, False, False)])
def test_a_bar_is_met_on_the_right_side(ratio: float, at_least: bool, met: bool) -> None:
    assert Row("", ratio, 1, at_least, {}).met is met


def test_repetitions_take_turns_and_the_least_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 5, 10, 11, 20, 23, 30, 37])  # a takes 5 then 3, b takes 1 then 7
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    order: list[str] = []
    found = measure.interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert found == {"a": 3, "b": 1} and order == ["a", "b", "a", "b"]


def test_peak_memory_of_a_child_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hog.py").write_text("def hold(n):\n    return {'held': len(b'x' * n)}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    of_parent = b"x" * 300_000_000
    small, large = (measure.in_child("hog", "hold", n) for n in (1, 100_000_000))
    assert large["held"] == 100_000_000 and len(of_parent) == 300_000_000
    assert large["peak_bytes"] - small["peak_bytes"] == pytest.approx(100_000_000, rel=0.1)
    assert large["peak_bytes"] < 200_000_000


def test_the_exponent_of_a_power_is_the_power() -> None:
    assert exponent((1, 2, 4), [3, 12, 48]) == pytest.approx(2)


def test_a_section_replaces_itself_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = iter([1, 2])
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(results, "machine", lambda: {"threads": next(threads)})
    (tmp_path / "page.md").write_text("a\n<!-- x -->\nold\n<!-- end of x -->\n<!-- y -->\nkept\n<!-- end of y -->\n")
    results.save("y", {"n": 1}, ["h"], [["kept"]], tmp_path / "page.md")
    results.save("x", {"n": 2}, ["h"], [[r"new \1"]], tmp_path / "page.md")
    machines = {"y": {"threads": 1}, "x": {"threads": 2}}
    assert json.loads((tmp_path / "results.json").read_text()) == {"machines": machines, "x": {"n": 2}, "y": {"n": 1}}
    table = "| h |\n| --- |\n| {} |\n"
    x, y = table.format(r"new \1"), table.format("kept")
    assert (tmp_path / "page.md").read_text() == (
        f"a\n<!-- x -->\n{x}<!-- end of x -->\n<!-- y -->\n{y}<!-- end of y -->\n"
    )
