"""The SFT part of a run of `generate_data`, from parameters to files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel

from narrowband.data.squad import Example
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.revision import model_revision
from narrowband.lm.source import load_tokenizer
from narrowband.params import Params
from narrowband.runtime import paths
from narrowband.runtime.files import streamed
from narrowband.runtime.progress import bar
from narrowband.sft.audit import audit
from narrowband.sft.backend import Backend, TransformersBackend
from narrowband.sft.filters import Contamination
from narrowband.sft.instructions import read_instructions, reading
from narrowband.sft.journal import Journal
from narrowband.sft.manifest import write_provenance
from narrowband.sft.model import PlainModel
from narrowband.sft.prompts import read_pool
from narrowband.sft.run import Run, Sources
from narrowband.sft.sentinels import examine
from narrowband.sft.vllm import VllmBackend


def write_sft(
    params: Params,
    readings: Sequence[Example],
    test: Sequence[Example],
    fingerprint: str,
    console: Console,
) -> dict[str, Any]:
    """Write records, rejected records, manifest and card to `folder`; all figures of the run.

    A run that was killed goes on from `checkpoint` and writes the same bytes as one that was not.

    Raises:
        InputError: a pool or the base model can't be used, the pilot misses a gate, or the instructions run out.
    """
    data = params.data
    pools = [Path(data.few_shot_pool), Path(data.instruction_pool)]
    pool = read_pool(pools[0])
    sources = Sources(pool, read_instructions(pools[1]), reading(readings), Contamination(test))
    revision = model_revision(params.base_model)
    folder = paths.SFT
    journal = Journal(paths.CHECKPOINTS / "sft.jsonl", fingerprint)
    if journal.recorded:
        console.print(f"SFT records: resuming after {journal.recorded} batches")
    model = PlainModel(open_backend(params), load_tokenizer(params.base_model), journal, params.generation.batch_size)
    verdict = examine(model)
    for warning in verdict.warnings:
        console.print(Panel(f"[bold]{warning}", title="WARNING", border_style="bold red"))

    source = {
        "backend": params.generation.backend,
        "prompt_style": data.prompt_style,
        "model": {"name": params.base_model, "revision": revision},
    }
    run = Run(model, params, sources, source)
    with (
        bar("SFT records", data.sft_records, console) as advance,
        streamed(folder / "train.jsonl") as train,
        streamed(folder / "rejected.jsonl") as rejected,
    ):
        run.write(train, rejected, advance)
    figures = run.figures() | {
        "critic_auc": run.critic.auc(),
        "sentinels": {"continued": verdict.continued, "obeyed": verdict.obeyed, "assistant": verdict.assistant},
        "broken": audit(folder / "train.jsonl", {example.id: example for example in pool}, sources.test),
    }
    write_provenance(folder, params, revision, {"counts": figures["counts"], "sentinels": verdict._asdict()})
    journal.discard()
    return figures


def headline(figures: Mapping[str, Any]) -> dict[str, float]:
    """What of the figures of a run stands in `metrics/data.json`: shares, and the critic's AUC."""
    sentinels = figures["sentinels"]
    return {
        "kept": figures["shares"]["kept"]["share"],
        "critic_auc": figures["critic_auc"],
        "continued": sentinels["continued"],
        "obeyed": sentinels["obeyed"],
    }


def open_backend(params: Params) -> Backend:
    """The backend that `generation.backend` names, with the base model loaded."""
    if params.generation.backend == "vllm":
        return VllmBackend.load(params.base_model, params.seed)
    return TransformersBackend(FrozenLM.load(params.base_model))
