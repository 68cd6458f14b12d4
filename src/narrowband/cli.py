"""The `narrowband` command: results of any revision, whether they still hold, hypotheses, profiles, and answers."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from narrowband.evaluation.headline import table
from narrowband.experiments.hypotheses import load_table, markdown, missing
from narrowband.experiments.profiles import read_profiles, use_profile
from narrowband.experiments.queue import collect, enqueue
from narrowband.experiments.verify import compare_metrics, read_tolerances
from narrowband.params import InputError, first_line, load_params
from narrowband.runtime.entry import console, one_sentence, set_up_torch
from narrowband.runtime.files import write_text

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
profiles = typer.Typer(no_args_is_help=True, help="Parameters that belong together, for a base model and a data set.")
app.add_typer(profiles, name="profile")

EVALUATION = "metrics/evaluate.json"
TOLERANCES = Path("metrics/tolerance.yaml")
HYPOTHESES = Path("docs/hypotheses.yaml")


def read_metrics(revision: str | None) -> dict[str, Any]:
    """Every metrics file that `dvc.yaml` declares, by name, of the workspace or of a Git revision or DVC experiment.

    Raises:
        InputError: there is no such revision, or it has no metrics, or they are damaged.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import RevError

    where = f"revision {revision}" if revision else "the workspace"
    try:
        stages = yaml.safe_load(dvc.api.read("dvc.yaml", rev=revision))["stages"]
        paths = [path for stage in stages.values() for entry in stage.get("metrics", []) for path in entry]
        return {path: json.loads(dvc.api.read(path, rev=revision)) for path in paths}
    except (DvcException, RevError, OSError, ValueError) as error:
        raise InputError(
            f"no metrics at {where} ({first_line(error)}); name a commit or experiment, or run dvc repro"
        ) from None


@app.command()
def show(revision: Annotated[str | None, typer.Argument(help="Commit, branch, tag or experiment.")] = None) -> None:
    """Print the table of the workspace, or of REVISION."""
    console.print(table(read_metrics(revision)[EVALUATION]))


@app.command()
def ask(
    context: Annotated[str, typer.Option(help="A passage to read.")],
    question: Annotated[str, typer.Option(help="What to ask about it.")],
) -> None:
    """Answer a question with every system of the workspace, beside the tokens that each makes of the prompt."""
    params = load_params()

    from narrowband.diagnosis.ask import ask_systems

    set_up_torch()
    console.print(ask_systems(context, question, params))


@app.command()
def memory() -> None:
    """Print the predicted peak memory of each stage at the workspace's parameters; nothing is run."""
    params = load_params()

    from narrowband.lm.source import outline
    from narrowband.memory import table as memory_table

    console.print(memory_table(outline(params.base_model), params))


@app.command()
def verify(rev: Annotated[str, typer.Option(help="Revision that holds the expected metrics.")] = "HEAD") -> None:
    """Compare the metrics of the workspace with those committed at REV, within metrics/tolerance.yaml; exit 1 on drift."""
    tolerances = read_tolerances(TOLERANCES)
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


@app.command()
def hypotheses(
    queue: Annotated[
        bool, typer.Option("--queue", help="Queue the experiments that are missing; write nothing.")
    ] = False,
    rev: Annotated[str, typer.Option(help="Commit that the experiments start from.")] = "HEAD",
) -> None:
    """Write docs/hypotheses.md from docs/hypotheses.yaml and the experiments that have finished."""
    asked = load_table(HYPOTHESES)
    experiments = collect(rev)
    names = missing(asked, experiments)
    if queue:
        for name in names:
            if name not in experiments.waiting:
                enqueue(name, asked.runs()[name])
                console.print(f"queued {name}")
        return
    write_text(HYPOTHESES.with_suffix(".md"), markdown(asked, experiments))
    console.print(f"{len(asked.runs()) - len(names)} of {len(asked.runs())} experiments have finished")


@profiles.command(name="list")
def list_profiles() -> None:
    """List the profiles with what they need."""
    shown = Table("profile", "about", "base model", "data set", "GPU memory", "disk")
    for name, (about, params) in read_profiles().items():
        needs = params["needs"]
        gpu = f"{needs['gpu_memory']} GiB" if needs["gpu_memory"] else "none"
        shown.add_row(name, about, params["base_model"], params["dataset"], gpu, f"{needs['disk']} GiB")
    console.print(shown)


@profiles.command()
def use(name: Annotated[str, typer.Argument(help="One of `narrowband profile list`.")]) -> None:
    """Write a profile's parameters to params.yaml; other parameters and all comments stay."""
    profile = use_profile(name)
    console.print(f"params.yaml now has {name}: {profile.about}", highlight=False)


def main() -> None:
    """Run the command; bad input is one sentence and exit code 2."""
    with one_sentence():
        app()
