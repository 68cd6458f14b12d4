"""The report: one HTML page that needs nothing else, neither files nor network."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from narrowband.diagnosis.verdicts import FINDINGS
from narrowband.evaluation.headline import TITLES
from narrowband.params import InputError, Params, first_line
from narrowband.report.charts import norm_chart, rate_chart, training_chart


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


def render(
    params: Params,
    evaluation: Mapping[str, Any],
    diagnosis: Mapping[str, Any],
    norms: Sequence[dict[str, float]],
    evaluations: dict[str, list[dict[str, float]]],
    examples: Sequence[dict[str, Any]],
    baselines: Sequence[dict[str, Any]],
) -> str:
    """The page; the same input gives the same bytes. `baselines` may be empty: then no rate-quality curve is drawn."""
    charts = [training_chart({TITLES[name]: rows for name, rows in evaluations.items()})]
    if baselines:
        charts.append(rate_chart(baselines))
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
        evaluation=evaluation,
        diagnosis=diagnosis,
        findings=FINDINGS,
        titles=TITLES,
        compressed=[name for name in TITLES if name in diagnosis],
        charts=charts,
        examples=examples,
    )
