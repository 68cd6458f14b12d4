"""Commands on experiments: verify and restore results, write tables and pictures of many runs, switch profiles."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from narrowband.experiments.hypotheses import load_table, markdown, missing
from narrowband.experiments.profiles import profile_names, read_profile, use_profile
from narrowband.experiments.queue import collect, queue_missing, with_details
from narrowband.experiments.revisions import read_metrics
from narrowband.experiments.sweep import SWEEPS, Axis
from narrowband.experiments.verify import compare_metrics, read_tolerances
from narrowband.params import InputError
from narrowband.runtime.entry import console
from narrowband.runtime.files import write_text
from narrowband.runtime.parameters import load_params

commands = typer.Typer()
profiles = typer.Typer(no_args_is_help=True, help="Sets of parameters for one base model and data set.")
commands.add_typer(profiles, name="profile")

Revisions = Annotated[
    list[str],
    typer.Option(
        default_factory=lambda: ["HEAD"],
        help="Commit that the experiments start from; if several have one of the same name, that of the first is used.",
    ),
]

TOLERANCES = Path("metrics/tolerance.yaml")
HYPOTHESES = Path("docs/hypotheses.yaml")


@commands.command()
def verify(rev: Annotated[str, typer.Option(help="Revision that holds the expected metrics.")] = "HEAD") -> None:
    """Compare the metrics of the workspace with those committed at REV, within metrics/tolerance.yaml; exit 1 on drift."""
    tolerances = read_tolerances(TOLERANCES)
    drifts = compare_metrics(read_metrics(rev), read_metrics(None), tolerances)
    shown = Table("metric", "committed", "now", "difference", "allowed", title=f"workspace against {rev}")
    for drift in drifts:
        values = f"{drift.expected}", f"{drift.found}", f"{drift.difference:.4g}", f"{drift.allowed:g}"
        shown.add_row(drift.name, *values, style="" if drift.ok else "red")
    console.print(shown)
    failed = [drift.name for drift in drifts if not drift.ok]
    if failed:
        console.print(Text.assemble(("drifted:", "red"), f" {', '.join(failed)}"))
        sys.exit(1)
    console.print(f"all {len(drifts)} metrics are within tolerance")


@commands.command()
def restore() -> None:
    """Restore parameters, metrics and outputs of the last commit, after `dvc exp run` changed the workspace."""
    from narrowband.experiments.restore import restore as restore_workspace

    restore_workspace()
    console.print("parameters, metrics and outputs are those of the last commit")


@commands.command()
def hypotheses(
    rev: Revisions,
    queue: Annotated[
        bool, typer.Option("--queue", help="Queue the experiments that are missing; write nothing.")
    ] = False,
) -> None:
    """Write docs/hypotheses.md from docs/hypotheses.yaml and the experiments that have finished."""
    asked = load_table(HYPOTHESES)
    experiments = collect(rev)
    if queue:
        console.print(f"queued {', '.join(queue_missing(asked.runs(), experiments)) or 'nothing'}", soft_wrap=True)
        return
    found = with_details(experiments.only(name for name in asked.runs() if name in experiments.finished))
    write_text(HYPOTHESES.with_suffix(".md"), markdown(asked, found))
    names = missing(asked, experiments)
    console.print(f"{len(asked.runs()) - len(names)} of {len(asked.runs())} experiments have finished")


@commands.command()
def sweep(
    rev: Revisions,
    axis: Annotated[
        Axis,
        typer.Argument(help="Fewer numbers, bits per token, fewer positions, or numbers or bits of a real model."),
    ] = Axis.NUMBERS,
    queue: Annotated[bool, typer.Option("--queue", help="Queue the runs that are missing; write nothing.")] = False,
) -> None:
    """Write the rows of a sweep, as far as its runs have finished, to docs/*.json, and draw its pictures."""
    swept = SWEEPS[axis]
    experiments = collect(rev)
    if queue:
        from narrowband.lm.base_model import model_config

        params = load_params()
        runs = swept.runs(params, model_config(params.base_model).get_text_config().hidden_size)
        console.print(f"queued {', '.join(queue_missing(runs, experiments, swept.stage)) or 'nothing'}", soft_wrap=True)
        return
    rows = swept.rows(experiments)
    drawn = swept.write(rows)
    where = f", drawn in {', '.join(map(str, drawn))}" if drawn else ""
    console.print(f"{len(rows)} rows in {swept.data}{where}")


@profiles.command(name="list")
def list_profiles() -> None:
    """List the profiles and the hardware they need; then report the first damaged one, if any."""
    shown = Table("profile", "about", "base model", "data set", "GPU memory", "disk")
    damaged: list[InputError] = []
    for name in profile_names():
        try:
            about, params = (profile := read_profile(name)).about, profile.params
        except InputError as error:
            damaged.append(error)
            continue
        model, dataset = (params.get(key, "") for key in ("base_model", "dataset"))
        shown.add_row(*map(str, (name, about, model, dataset, *_hardware(params))))
    console.print(shown)
    if damaged:
        raise damaged[0]


def _hardware(params: dict[str, Any]) -> tuple[str, str]:
    """GPU memory and disk that a profile needs; empty if it does not say so."""
    match params.get("needs"):
        case {"gpu_memory": gpu, "disk": disk}:
            return f"{gpu} GiB" if gpu else "none", f"{disk} GiB"
    return "", ""


@profiles.command()
def use(name: Annotated[str, typer.Argument(help="One of `narrowband profile list`.")]) -> None:
    """Write a profile's parameters to params.yaml; other parameters and all comments stay."""
    profile = use_profile(name)
    console.print(f"params.yaml now has {name}: {profile.about}", highlight=False)
