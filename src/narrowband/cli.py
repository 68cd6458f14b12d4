"""The `narrowband` command: the results table of any revision, and whether results still are what was committed."""

import sys
from pathlib import Path
from typing import Annotated, Any

import dvc.api
import typer
import yaml
from dvc.exceptions import DvcException
from rich.table import Table

from narrowband.evaluation.compare import table
from narrowband.params import InputError
from narrowband.stage import console, refuse
from narrowband.verify import compare_metrics

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

EVALUATION = "metrics/evaluate.json"
TOLERANCES = Path("metrics/tolerance.yaml")


def read_metrics(revision: str | None) -> dict[str, Any]:
    """All metrics of the workspace, or of a Git revision or DVC experiment, by file and dotted name.

    Raises:
        InputError: there is no such revision, or it has no metrics.
    """
    try:
        metrics: dict[str, Any] = dvc.api.metrics_show(rev=revision)
    except DvcException as error:
        raise InputError(
            f"no metrics at revision {revision}: {error}; name a commit, branch, tag or experiment"
        ) from None
    if not metrics:
        raise InputError(f"no metrics at {revision or 'the workspace'}; run dvc repro first")
    return metrics


@app.command()
def show(revision: Annotated[str | None, typer.Argument(help="Commit, branch, tag or experiment.")] = None) -> None:
    """Print the table of the workspace, or of REVISION."""
    metrics = read_metrics(revision)
    if "pca" not in metrics:
        raise InputError(f"{EVALUATION} is missing at {revision or 'the workspace'}; run dvc repro")
    console.print(table(metrics))


@app.command()
def verify(rev: Annotated[str, typer.Option(help="Revision that holds the expected metrics.")] = "HEAD") -> None:
    """Compare the metrics of the workspace with those committed at REV, within metrics/tolerance.yaml; exit 1 on drift."""
    tolerances = yaml.safe_load(TOLERANCES.read_text())
    drifts = compare_metrics(read_metrics(rev), read_metrics(None), tolerances)
    shown = Table("metric", "committed", "now", "difference", "allowed", title=f"workspace against {rev}")
    for drift in drifts:
        mark = "" if drift.ok else "[red]"
        shown.add_row(
            *(
                mark + text
                for text in (
                    drift.name,
                    f"{drift.expected}",
                    f"{drift.found}",
                    f"{drift.difference:.4g}",
                    f"{drift.allowed:g}",
                )
            )
        )
    console.print(shown)
    failed = [drift.name for drift in drifts if not drift.ok]
    if failed:
        console.print(f"[red]drifted:[/] {', '.join(failed)}")
        sys.exit(1)
    console.print(f"all {len(drifts)} metrics are within tolerance")


def main() -> None:
    """Run the command; bad input is one sentence and exit code 2."""
    try:
        app()
    except InputError as error:
        refuse(error)
