"""Every row can be measured, shown at sizes that take no time; the ratios mean nothing at these."""

import pytest

from benchmarks import evaluation, measure, pca, run, startup, training

SMALL = {
    pca: {
        "COMPRESS": 16,
        "VOCABULARY": 500,
        "HIDDEN": 64,
        "TOKENS": 20_000,
        "WINDOWS": 600,
        "VECTOR": 128,
        "BATCH": 200,
    },
    training: {"WIDTH": 256, "TOKENS": 64},
    evaluation: {"QUESTIONS": 6, "ALONE": 2, "TEST": 6},
    startup: {"ARGUMENTS": {"fit_pca": 3}},
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, constants in SMALL.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(pca, "growth", lambda function, few, many: 1.0)
    once = measure.interleaved
    for module in (pca, training, evaluation, startup):
        monkeypatch.setattr(module, "interleaved", lambda runs, repetitions: once(runs, 1))


@pytest.mark.parametrize("name", run.ROWS)
def test_a_row_is_measured_and_shown(name: str) -> None:
    row = run.ROWS[name]()
    assert row.ratio > 0 and all(seconds > 0 for seconds in row.seconds.values())
    assert row.checks.get("largest_principal_angle", 0) < 1e-3
    assert len(run.cells(row)) == len(run.HEADER)


@pytest.mark.parametrize("fit", [pca.fit_counts, pca.fit_stream])
def test_what_a_child_fits_for_its_memory(fit) -> None:
    fit(2_000)
