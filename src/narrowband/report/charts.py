"""Charts as data: what a template needs to draw axes, lines, points and bands in SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 88, 16, 16, 60


@dataclass(frozen=True)
class Axis:
    """A labelled range, linear, or logarithmic with ticks at powers of 4."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where `value` lies on the axis, 0 to 1."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[float]:
        """About five round values within the range."""
        if self.log:
            first, last = math.ceil(math.log(self.low, 4)), math.floor(math.log(self.high, 4))
            return [4.0**power for power in range(first, last + 1)]
        rough = (self.high - self.low or 1) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [round(i * step, 9) for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


class Point(NamedTuple):
    """A point, with the ends of its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A named line through `points`, drawn with a marker at each if `marked`."""

    name: str
    points: Sequence[Point]
    marked: bool = True


@dataclass(frozen=True)
class Chart:
    """A chart with its title and, for who can't see it, what it shows."""

    id: str
    title: str
    description: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    size: ClassVar[tuple[int, int]] = WIDTH, HEIGHT

    def px(self, x: float) -> float:
        """Horizontal position in the SVG."""
        return round(LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT), 1)

    def py(self, y: float) -> float:
        """Vertical position in the SVG."""
        return round(HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM), 1)

    def line(self, series: Series) -> str:
        """The points of a polyline."""
        return " ".join(f"{self.px(p.x)},{self.py(p.y)}" for p in series.points)

    def band(self, series: Series) -> str:
        """The outline of the intervals, for a polygon; empty if any point has none."""
        if any(p.low is None for p in series.points):
            return ""
        lows = [f"{self.px(p.x)},{self.py(p.low)}" for p in series.points if p.low is not None]
        highs = [f"{self.px(p.x)},{self.py(p.high)}" for p in series.points if p.high is not None]
        return " ".join(lows + highs[::-1])


F1 = Axis("F1 (0 to 100)", 0, 100)


def training_chart(evaluations: dict[str, list[dict[str, float]]]) -> Chart:
    """F1 against cosine, one point a quick evaluation; `evaluations` by phase, in order of steps."""
    series = [
        Series(name, [Point(row["cosine"], row["f1"]) for row in rows]) for name, rows in evaluations.items() if rows
    ]
    cosines = [point.x for line in series for point in line.points]
    return Chart(
        "training",
        "F1 against cosine over training",
        "Quick evaluations on validation questions, joined in order of steps, with the last one filled.",
        Axis("cosine of reconstructed and original embeddings", min(cosines), max(cosines)),
        F1,
        series,
    )


def rate_chart(rows: Sequence[dict[str, Any]]) -> Chart:
    """F1 against bits a token: the rows of `metrics/baselines.json`, joined by system."""
    systems: dict[str, list[Point]] = {}
    for row in rows:
        interval = row["f1_interval"]
        point = Point(row["bits_per_token"], row["f1"], interval["low"], interval["high"])
        systems.setdefault(row["system"], []).append(point)
    bits = [point.x for points in systems.values() for point in points]
    return Chart(
        "rate",
        "F1 against rate",
        "Bits a token with side information counted; bands and bars are 95% intervals.",
        Axis("bits per token", min(bits), max(bits), log=True),
        F1,
        [Series(name, sorted(points)) for name, points in systems.items()],
    )


def norm_chart(rows: Sequence[dict[str, float]], titles: dict[str, str]) -> Chart:
    """Histograms of norms, one line an entry of `rows` beside `norm`."""
    names = [name for name in rows[0] if name != "norm"]
    return Chart(
        "norms",
        "Norms of token embeddings",
        "Share of the sampled prompt tokens by norm, original and as each system returns them.",
        Axis("norm", 0, rows[-1]["norm"]),
        Axis("share of tokens", 0, max(row[name] for row in rows for name in names)),
        [
            Series(titles.get(name, name), [Point(row["norm"], row[name]) for row in rows], marked=False)
            for name in names
        ],
    )
