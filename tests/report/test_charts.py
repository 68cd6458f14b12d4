"""What the charts draw, read back from their SVG."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from narrowband.evaluation.baselines import OF_CODEC, REFERENCES
from narrowband.evaluation.headline import TITLES
from narrowband.report.charts import (
    f1_and_cosine_chart,
    norm_chart,
    rate_chart,
    spectrum_chart,
    training_chart,
)
from narrowband.report.drawing import COLOURS, GREY, Chart, looks

SVG = "{http://www.w3.org/2000/svg}"


def sweep_row(compression: int, system: str, f1: float, cosine: float) -> dict:
    return {
        **{"compression": compression, "system": system, "cosine": cosine},
        **{"f1": f1, "low": f1 - 3, "high": f1 + 2},
    }


SWEEP = [
    *({**sweep_row(ratio, "phase2", 96 - ratio, 0.9), "agreement": 80.0 - ratio} for ratio in (64, 2, 8)),
    *(sweep_row(ratio, "pca", 70 - ratio, 0.8) for ratio in (2, 8, 64)),
    {"system": "uncompressed", "f1": 97.5},
]
TRAINING = {
    "phase1": [{"cosine": 0.5, "f1": 10.0}, {"cosine": 0.9, "f1": 60.0}],
    "phase2": [{"cosine": 0.9, "f1": 60.0}, {"cosine": 0.8, "f1": 90.0}, {"cosine": 0.7, "f1": 100.0}],
}
RATES = [
    {
        **{"system": name, "bits_per_token": bits, "f1": f1, "f1_interval": {"low": f1 - 5, "high": f1 + 3}},
        **{"agreement": f1 + 4, "agreement_interval": {"low": f1 + 2, "high": f1 + 5}},
    }
    for name, bits, f1 in (("pca", 320, 60.0), ("token <id> of $5 & $6", 11, 90.0), ("pca", 40, 20.0))
]
NORMS = [{"norm": 0.5, "original": 0.25, "pca": 1.0}, {"norm": 1.5, "original": 0.75, "pca": 0.0}]
SPECTRA = {"This model": {2: 0.9, 4: 0.7, 8: 0.5}, "Another": {2: 0.8, 4: 0.6}}


def charts() -> list[Chart]:
    return [
        training_chart(TRAINING),
        rate_chart(RATES),
        norm_chart(NORMS),
        f1_and_cosine_chart(SWEEP),
        spectrum_chart(SPECTRA),
    ]


def texts(chart: Chart) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(chart.svg()).iter(f"{SVG}text")]


def curve(chart: Chart, name: str, panel: int = 0) -> list[tuple[float, float]]:
    """The data that one curve of a chart joins."""
    (line,) = (line for line in chart.figure.axes[panel].lines if line.get_label() == name)
    return [(float(x), float(y)) for x, y in line.get_xydata()]


def bars(chart: Chart, panel: int = 0) -> set[tuple[float, float, float]]:
    """Place and both ends of every error bar of a panel."""
    segments = [segment for drawn in chart.figure.axes[panel].collections for segment in drawn.get_segments()]
    return {(float(x), round(float(low), 9), round(float(high), 9)) for (x, low), (_, high) in segments}


def test_other_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for chart in charts():
        chart.save(tmp_path / f"{chart.id}.svg")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: path\n")  # a user's own taste
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_charts; [print(c.svg(), end='') for c in test_charts.charts()]"
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "".join((tmp_path / f"{chart.id}.svg").read_text() for chart in charts())


def test_text_is_text_and_every_axis_is_named() -> None:
    labels = {
        "training": ["cosine of reconstructed and original embeddings", "F1 (0 to 100)", "Phase 1", "Phase 2"],
        "rate": ["bits per token", "F1 (0 to 100)", "agreement (0 to 100)", "PCA", "token <id> of $5 & $6"],
        "norms": ["norm", "share of tokens", "Original", "PCA"],
        "compression": [
            "compression ratio (of numbers)",
            "F1 (0 to 100)",
            "agreement (0 to 100)",
            "cosine",
            "PCA",
            "Phase 2",
        ],
        "spectrum": ["compression ratio (of numbers)", "share of variance kept", "This model", "Another"],
    }
    for chart in charts():
        assert set(labels[chart.id]) <= set(texts(chart))


def test_text_is_large_enough_at_700_pixels() -> None:
    for chart in charts():
        width = float(chart.view_box.split()[2])
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", chart.svg())]
        assert sizes and 700 / width * min(sizes) >= 12


def test_ratios_and_rates_double_from_tick_to_tick() -> None:
    assert [text for text in texts(f1_and_cosine_chart(SWEEP)) if re.fullmatch(r"\d+x", text)] == [
        *(f"{2**power}x" for power in range(1, 7)),
    ] * 3
    assert {"16", "32", "64", "128", "256"} <= set(texts(rate_chart(RATES)))


def test_the_picture_of_the_readme_joins_each_system_in_order_of_compression_with_intervals() -> None:
    chart = f1_and_cosine_chart(SWEEP)
    assert curve(chart, "Phase 2") == [(2, 94), (8, 88), (64, 32)]
    assert curve(chart, "Phase 2", panel=1) == [(2, 78), (8, 72), (64, 16)]
    assert curve(chart, "Phase 2", panel=2) == [(2, 0.9), (8, 0.9), (64, 0.9)]
    assert bars(chart) == {(row["compression"], row["low"], row["high"]) for row in SWEEP if "low" in row}
    assert {y for _, y in curve(chart, "Uncompressed")} == {97.5}
    assert ["Phase 2", "8", "88", "85.0 to 90.0", "72", "0.900"] in chart.rows


def test_systems_without_agreement_are_drawn_without() -> None:
    chart = f1_and_cosine_chart(SWEEP)
    assert [line.get_label() for line in chart.figure.axes[1].lines] == ["Phase 2"]
    assert ["PCA", "8", "62", "59.0 to 64.0", "", "0.800"] in chart.rows
    alone = f1_and_cosine_chart([row for row in SWEEP if "agreement" not in row])
    assert [axes.get_ylabel() for axes in alone.figure.axes] == ["F1 (0 to 100)", "cosine"]


def test_the_rate_chart_joins_each_system_in_order_of_rate_with_intervals() -> None:
    chart = rate_chart(RATES)
    assert curve(chart, "PCA") == [(40, 20), (320, 60)]
    assert bars(chart) == {(40, 15, 23), (320, 55, 63), (11, 85, 93)}
    assert curve(chart, "PCA", panel=1) == [(40, 24), (320, 64)]
    assert bars(chart, panel=1) == {(40, 22, 25), (320, 62, 65), (11, 92, 95)}
    assert chart.rows[0] == ["PCA", "40", "20", "15.0 to 23.0", "24", "22.0 to 25.0"]


def test_a_single_rate_still_has_ticks() -> None:
    assert {"8", "16"} & set(texts(rate_chart(RATES[1:2])))


def test_training_is_joined_in_order_of_steps_with_its_last_evaluation_filled() -> None:
    chart = training_chart({**TRAINING, "phase1": []})
    assert curve(chart, "Phase 2") == [(0.9, 60), (0.8, 90), (0.7, 100)]
    assert [line.get_markerfacecolor() == "none" for line in chart.figure.axes[0].lines] == [True, False]
    assert "Phase 1" not in texts(chart)


def test_histograms_cover_their_bins() -> None:
    original, pca = norm_chart(NORMS).figure.axes[0].patches
    assert original.get_data().values.tolist() == [0.25, 0.75] and original.get_data().edges.tolist() == [0, 1, 2]
    assert pca.get_data().values.tolist() == [1, 0]


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["#ffffff", "#0d1117"])
def test_every_colour_stands_out_from_a_light_and_a_dark_page(ground: str) -> None:
    for colour, wanted in [(GREY, 4.0), *((colour, 3.0) for colour in COLOURS)]:
        dark, light = sorted([luminance(colour), luminance(ground)])
        assert (light + 0.05) / (dark + 0.05) >= wanted, colour


def test_charts_have_no_ground_of_their_own() -> None:
    for chart in charts():
        root = ElementTree.fromstring(chart.svg())
        patches = [g.find(f"{SVG}path") for g in root.iter(f"{SVG}g") if g.get("id") in ("patch_1", "patch_2")]
        assert len(patches) == 2 and all(path is not None and path.get("style") == "fill: none" for path in patches)


def test_a_system_looks_the_same_in_every_chart_and_no_two_of_a_chart_alike() -> None:
    many = [TITLES.get(name, name) for name in (*REFERENCES, *OF_CODEC, "phase1", "phase2")]
    found = looks(many)
    for part in ("color", "marker", "linestyle"):
        assert len({look[part] for look in found.values()}) == len(many)
    assert found["Phase 1"] == looks(["Phase 1"])["Phase 1"]
