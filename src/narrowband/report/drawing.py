"""How charts look and how they are stored: one style for README, docs and report; the same data gives the same bytes."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from narrowband.evaluation.headline import TITLES
from narrowband.runtime.files import write_text

GREY = "#7a7a7a"
"""Colour of text and axes; like the colours below, it is readable on white and on dark pages."""
COLOURS = (
    *("#d26a1b", "#2f7de1", "#2a9a4a", "#9a63e0", "#d9488f", "#1a93a5", "#a6801d", GREY),
    *("#d64a4a", "#6b8e23", "#a0695a"),
)
DASHES = (
    "--",
    "-.",
    "-",
    ":",
    (0, (1, 1)),
    (0, (5, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 3)),
    (0, (2, 2)),
    (0, (6, 2)),
    (0, (4, 1)),
)
MARKERS = "sDo^vP*X<>p"
STYLE: dict[str, Any] = {
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], GREY),
    **dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], "none"),
    **{"axes.grid": True, "grid.color": GREY, "grid.alpha": 0.25, "axes.spines.top": False, "axes.spines.right": False},
    **{"lines.linewidth": 2, "lines.markersize": 5, "errorbar.capsize": 3, "legend.frameon": False},
    **{"svg.fonttype": "none", "svg.hashsalt": "narrowband", "text.parse_math": False},
}
NOTHING = dict.fromkeys(["Creator", "Date", "Format", "Type"])
"""No metadata in the SVG, because it would contain a version, a time and URLs."""


class Point(NamedTuple):
    """A point, with the ends of its 95% interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


Lines = Mapping[str, Sequence[Point]]
"""Points by the name of their line, in the order in which they are joined."""


@dataclass(frozen=True)
class Chart:
    """A chart with its title, one sentence on how to read it, and its numbers for those who cannot see it."""

    id: str
    title: str
    description: str
    figure: Figure
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def svg(self) -> str:
        """A whole SVG file, without a background, with text as text."""
        file = StringIO()
        with styled():
            self.figure.savefig(file, format="svg", metadata=NOTHING)
        return file.getvalue()

    def save(self, path: Path) -> None:
        """Write the SVG to `path`."""
        write_text(path, self.svg())

    @property
    def view_box(self) -> str:
        """The `viewBox` that `elements` are drawn in."""
        width, height = 72 * self.figure.get_size_inches()
        return f"0 0 {width:g} {height:g}"

    def elements(self) -> str:
        """The content of `<svg>`, with ids that are unique on a page."""
        whole = self.svg()
        inner = whole[whole.index(">", whole.index("<svg")) + 1 : whole.rindex("</svg>")]
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.id}-", inner)


@contextmanager
def styled() -> Iterator[None]:
    """The style of all charts, whatever matplotlib's own configuration says; usable as a decorator."""
    with style.context(STYLE, after_reset=True):
        yield


def draw_lines(axes: Axes, lines: Lines) -> None:
    """Join the points of each name, with their intervals; a system looks the same in every chart."""
    for name, look in looks(lines).items():
        axes.plot([point.x for point in lines[name]], [point.y for point in lines[name]], **look)
        for x, y, low, high in lines[name]:
            if low is not None and high is not None:
                axes.errorbar(x, y, [[y - low], [high - y]], ecolor=look["color"], elinewidth=1.2)


def looks(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker by name: fixed for systems with a codec, the remaining ones in turn for other names."""
    systems = [TITLES[name] for name in ("pca", "phase1", "phase2")]
    free = cycle(range(len(systems), len(COLOURS)))
    places = {name: systems.index(name) if name in systems else next(free) for name in names}
    return {
        name: {"color": COLOURS[i], "linestyle": DASHES[i], "marker": MARKERS[i], "label": name}
        for name, i in places.items()
    }


def doubling_axis(axes: Axes, values: Collection[float], unit: str = "") -> None:
    """A logarithmic x axis with a tick at each power of 2 from below the least of `values` to above the largest."""
    first, last = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    ticks = [2.0**power for power in range(first, last + 1)]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}{unit}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Name what `axes` shows, above the charts of `figure`."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=columns)


def number_rows(lines: Lines) -> list[list[str]]:
    """The cells of a table: name, x, y, and the interval where there is one."""
    return [
        [name, f"{point.x:.4g}", f"{point.y:.4g}", *_interval(point)]
        for name, points in lines.items()
        for point in points
    ]


def _interval(point: Point) -> list[str]:
    return [] if point.low is None else [f"{point.low:.1f} to {point.high:.1f}"]
