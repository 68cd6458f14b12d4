"""The report: one HTML page that needs nothing else, neither files nor network."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from narrowband.diagnosis.verdicts import FINDINGS
from narrowband.evaluation.headline import TITLES
from narrowband.params import InputError, Params, first_line
from narrowband.report.charts import norm_chart, rate_chart, training_chart
from narrowband.runtime import paths
from narrowband.runtime.files import read_json


def read_evaluations(path: Path) -> list[dict[str, float]]:
    """The rows of a phase's `evaluations.csv`.

    Raises:
        InputError: they are not numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); run dvc repro") from None


class Results(NamedTuple):
    """What earlier stages found: headline and details of `evaluate`, rows of `baselines`, quick evaluations by phase."""

    headline: Mapping[str, Any]
    details: Mapping[str, Any]
    baselines: Sequence[dict[str, Any]]
    evaluations: Mapping[str, list[dict[str, float]]]


def read_results() -> Results:
    """The results of a run in the workspace.

    Raises:
        InputError: one is missing or damaged.
    """
    return Results(
        read_json(paths.METRICS / "evaluate.json"),
        read_json(paths.RESULTS / "evaluate.json"),
        read_json(paths.RESULTS / "baselines.json")["rows"],
        {phase: read_evaluations(paths.LOG / phase / "evaluations.csv") for phase in ("phase1", "phase2")},
    )


def render(
    params: Params,
    results: Results,
    diagnosis: Mapping[str, Any],
    norms: Sequence[dict[str, float]],
    examples: Sequence[dict[str, Any]],
) -> str:
    """The page; the same input gives the same bytes. Without rows of `baselines` no rate-quality curve is drawn."""
    charts = [training_chart({TITLES[name]: rows for name, rows in results.evaluations.items()})]
    if results.baselines:
        charts.append(rate_chart(results.baselines))
    charts.append(norm_chart(norms, {"original": "Original", **TITLES}))
    environment = Environment(
        loader=PackageLoader("narrowband.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        params=params,
        headline=results.headline,
        details=results.details,
        diagnosis=diagnosis,
        findings=FINDINGS,
        titles=TITLES,
        compressed=[name for name in TITLES if name in diagnosis],
        charts=charts,
        examples=examples,
    )
