"""The report: one self-contained HTML page, which needs no other files and no network."""

import csv
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from narrowband.diagnosis.table import FINDINGS
from narrowband.evaluation.headline import TITLES, headline_table, retained
from narrowband.params import InputError, Params, first_line
from narrowband.report.spectra import real_spectra
from narrowband.runtime import paths
from narrowband.runtime.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from narrowband.report.drawing import Chart


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
    """Results of earlier stages: headline and details of `evaluate`, rows of `baselines`, quick evaluations by phase."""

    headline: Mapping[str, Any]
    details: Mapping[str, Any]
    baselines: Sequence[dict[str, Any]]
    evaluations: Mapping[str, list[dict[str, float]]]


def read_results() -> Results:
    """The results of a run in the workspace.

    Raises:
        InputError: one is missing or damaged, or lacks what the page shows.
    """
    headline = _read(paths.METRICS / "evaluate.json", lambda content: headline_table(content, {}))
    return Results(
        headline,
        _read(paths.RESULTS / "evaluate.json", lambda content: _require_details(headline, content)),
        _read(paths.RESULTS / "baselines.json", _require_rates)["rows"],
        {phase: read_evaluations(paths.LOG / phase / "evaluations.csv") for phase in ("phase1", "phase2")},
    )


def _read(path: Path, show: Callable[[Any], object]) -> Any:
    """The content of `path`, which `show` must be able to use."""
    content = read_json(path)
    try:
        show(content)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"{path} is not what this version of its stage writes; run dvc repro, or restore it from Git"
        ) from None
    return content


def _require_details(headline: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    headline_table(headline, details)
    _ = [details[name] for name in ("questions", "mcnemar", *TITLES)]


def _require_rates(baselines: Mapping[str, Any]) -> None:
    for row in baselines["rows"]:
        ends = [row[f"{name}_interval"][end] for name in ("f1", "agreement") for end in ("low", "high")]
        _ = row["system"], fsum([row["bits_per_token"], row["f1"], row["agreement"], *ends])


class Diagnosed(NamedTuple):
    """What `diagnose` adds: figures and verdicts, histograms of norms, the first examples, shares of variance by ratio."""

    figures: Mapping[str, Any]
    norms: Sequence[Mapping[str, float]]
    examples: Sequence[Mapping[str, Any]]
    spectrum: Mapping[int, float]


def write_report(params: Params, results: Results, diagnosed: Diagnosed) -> None:
    """Write figures to results/diagnosis.json, histograms and page to report/."""
    write_json(paths.RESULTS / "diagnosis.json", diagnosed.figures)
    write_json(paths.REPORT / "norms.json", diagnosed.norms)
    write_text(paths.REPORT / "index.html", render(params, results, diagnosed))


def render(params: Params, results: Results, diagnosed: Diagnosed) -> str:
    """The page; the same input gives the same bytes. Without rows of `baselines` no rate-quality curve is drawn."""
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
        retained=retained,
        details=results.details,
        diagnosis=diagnosed.figures,
        findings=FINDINGS,
        titles=TITLES,
        compressed=[name for name in TITLES if name in diagnosed.figures],
        charts=_charts(results, diagnosed),
        examples=diagnosed.examples,
    )


def _charts(results: Results, diagnosed: Diagnosed) -> "list[Chart]":
    """The charts of the page, in order."""
    from narrowband.report.charts import norm_chart, rate_chart, spectrum_chart, training_chart  # slow to import

    rate = [rate_chart(results.baselines)] if results.baselines else []
    spectrum = spectrum_chart({"This model": diagnosed.spectrum, **real_spectra()})
    return [training_chart(results.evaluations), *rate, norm_chart(diagnosed.norms), spectrum]
