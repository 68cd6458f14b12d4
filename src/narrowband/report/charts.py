"""The charts of README, docs and report: what each shows and how its axes are labelled."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from narrowband.evaluation.headline import TITLES
from narrowband.report.drawing import GREY, Chart, Point, doubling_axis, draw_lines, legend, looks, number_rows, styled

SIZE = (7.0, 4.2)
WIDE = (7.6, 3.8)
TALL = (7.6, 4.4)
"""Wide, with room for a long legend."""

TOP = 103
"""End of the F1 axis, so that a marker at 100 is not cut off."""

F1 = "F1 (0 to 100)"
AGREEMENT = "agreement (0 to 100)"
RATIO = "compression ratio (of numbers)"
INTERVAL = "95% interval"


@styled()
def training_chart(evaluations: Mapping[str, Sequence[Mapping[str, float]]]) -> Chart:
    """F1 against cosine during training: rows of `cosine` and `f1`, one a quick evaluation, by phase, in order of steps."""
    lines = {
        TITLES[phase]: [Point(row["cosine"], row["f1"]) for row in rows] for phase, rows in evaluations.items() if rows
    }
    figure, axes = _figure("cosine of reconstructed and original embeddings", F1)
    for name, look in looks(lines).items():
        axes.plot([p.x for p in lines[name]], [p.y for p in lines[name]], markerfacecolor="none", **look)
        axes.plot(lines[name][-1].x, lines[name][-1].y, color=look["color"], marker=look["marker"])
    axes.set_ylim(0, TOP)
    legend(figure, axes, 2)
    return Chart(
        "training",
        "F1 against cosine during training",
        "Quick evaluations on validation questions, joined in order of steps; the last one of each phase is filled.",
        figure,
        ["phase", "cosine", "F1"],
        number_rows(lines),
    )


@styled()
def rate_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """F1 and agreement of each system, side by side, against bits per token.

    A row holds `system`, `bits_per_token`, `f1` with its `f1_interval`, and `agreement` with its `agreement_interval`.
    """
    f1, agreement = (_against_rate(rows, name) for name in ("f1", "agreement"))
    figure = Figure(TALL, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, lines, label in ((left, f1, F1), (right, agreement, AGREEMENT)):
        draw_lines(axes, lines)
        doubling_axis(axes, [row["bits_per_token"] for row in rows])
        axes.set(xlabel="bits per token", ylabel=label)
    left.set_ylim(0, TOP)
    legend(figure, left, 4)
    agreed = [row[2:] for row in number_rows(agreement)]
    return Chart(
        "rate",
        "F1 and agreement against rate",
        "Bits per token of everything that is sent, and F1 on test questions beside agreement with the uncompressed model; "
        "bars are 95% intervals.",
        figure,
        ["system", "bits per token", "F1", INTERVAL, "agreement", INTERVAL],
        [[*cells, *more] for cells, more in zip(number_rows(f1), agreed, strict=True)],
    )


def _against_rate(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Point]]:
    """Points of `name` with their intervals, by title of the system, sorted by rate; ties in the order of `rows`."""
    lines: dict[str, list[Point]] = {}
    for row in sorted(rows, key=itemgetter("bits_per_token")):
        ends = row[f"{name}_interval"]
        point = Point(row["bits_per_token"], row[name], ends["low"], ends["high"])
        lines.setdefault(TITLES.get(row["system"], row["system"]), []).append(point)
    return {title: lines[title] for title in dict.fromkeys(TITLES.get(row["system"], row["system"]) for row in rows)}


@styled()
def norm_chart(rows: Sequence[Mapping[str, float]]) -> Chart:
    """Histograms of norms: rows of `norm`, the middle of a bin, and the share of tokens in it by system; bins begin at 0."""
    titles = {"original": "Original", **TITLES}
    shares = {titles[name]: [row[name] for row in rows] for name in rows[0] if name != "norm"}
    width = rows[-1]["norm"] / (len(rows) - 0.5)
    edges = [width * i for i in range(len(rows) + 1)]
    figure, axes = _figure("norm", "share of tokens")
    for name, look in looks(shares).items():
        del look["marker"]
        if name == "Original":
            axes.stairs(shares[name], edges, fill=True, alpha=0.3, **look)
        else:
            axes.stairs(shares[name], edges, linewidth=2, **look)
    legend(figure, axes, 4)
    return Chart(
        "norms",
        "Norms of token embeddings",
        "Share of the sampled prompt tokens by norm, original and as each system returns them.",
        figure,
        ["system", "norm", "share of tokens"],
        number_rows(
            {name: [Point(row["norm"], y) for row, y in zip(rows, ys, strict=True)] for name, ys in shares.items()}
        ),
    )


@styled()
def f1_and_cosine_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """F1, agreement and cosine of each system, side by side, against the compression ratio.

    A row holds `compression`, `system` (a name in `TITLES`), `f1` with the ends `low` and `high` of its 95% interval,
    `cosine`, and `agreement` if it is known. A row of `uncompressed` needs `f1` alone, and is drawn as a line across.
    """
    places = list(TITLES)
    compressed = sorted(
        (row for row in rows if row["system"] != "uncompressed"),
        key=lambda row: (places.index(row["system"]), row["compression"]),
    )
    f1 = _by_system(compressed, "f1", "low", "high")
    agreement, cosine = _by_system(compressed, "agreement"), _by_system(compressed, "cosine")
    shown = [(F1, f1), *([(AGREEMENT, agreement)] if agreement else []), ("cosine", cosine)]
    figure = Figure(WIDE, layout="constrained")
    panels = figure.subplots(1, len(shown))
    for axes, (label, lines) in zip(panels, shown, strict=True):
        draw_lines(axes, lines)
        doubling_axis(axes, [row["compression"] for row in compressed], "x")
        axes.set(ylabel=label, ylim=(None if label == "cosine" else (0, TOP)))
    figure.supxlabel(RATIO, fontsize="medium")
    for f1_uncompressed in {row["f1"] for row in rows if row["system"] == "uncompressed"}:
        panels[0].axhline(f1_uncompressed, label=TITLES["uncompressed"], color=GREY, linestyle=":")
    legend(figure, panels[0], 4)
    more = [[f"{row['agreement']:.4g}" if "agreement" in row else "", f"{row['cosine']:.3f}"] for row in compressed]
    return Chart(
        "compression",
        "F1, agreement and cosine against compression",
        "F1 on test questions with 95% intervals, agreement with the uncompressed model, and cosine of reconstructed and "
        "original embeddings.",
        figure,
        ["system", RATIO, "F1", INTERVAL, "agreement", "cosine"],
        [[*cells, *known] for cells, known in zip(number_rows(f1), more, strict=True)],
    )


def _by_system(rows: Sequence[Mapping[str, Any]], *columns: str) -> dict[str, list[Point]]:
    """Points of `columns` against `compression`, of rows that have them, by title of the system, in the order of `rows`."""
    lines: dict[str, list[Point]] = {}
    for row in rows:
        if columns[0] in row:
            point = Point(row["compression"], *(row[column] for column in columns))
            lines.setdefault(TITLES[row["system"]], []).append(point)
    return lines


@styled()
def spectrum_chart(spectra: Mapping[str, Mapping[int, float]]) -> Chart:
    """Share of variance (0 to 1) that PCA keeps per token against the compression ratio, by name of the model."""
    lines = {name: [Point(ratio, share) for ratio, share in shares.items()] for name, shares in spectra.items()}
    figure, axes = _figure(RATIO, "share of variance kept")
    draw_lines(axes, lines)
    doubling_axis(axes, [point.x for points in lines.values() for point in points], "x")
    axes.set_ylim(0, TOP / 100)
    legend(figure, axes, 3)
    return Chart(
        "spectrum",
        "How hard the embeddings are to compress",
        "Share of their variance that PCA keeps, one vector per token, weighted by token counts of prompts.",
        figure,
        ["model", RATIO, "share of variance"],
        number_rows(lines),
    )


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes
