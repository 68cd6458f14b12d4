"""The SFT part of `generate_data`: from parameters to files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.text import Text

from narrowband.data.settled import require_bos, told
from narrowband.lm.base_model import load_tokenizer
from narrowband.lm.bos import BosChoice, measure_bos
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.model_revision import model_revision
from narrowband.params import BackendName, Data, SftBos
from narrowband.runtime.entry import console
from narrowband.runtime.files import whole_file
from narrowband.runtime.progress import progress
from narrowband.sft.audit import audit
from narrowband.sft.backend import Backend, TransformersBackend
from narrowband.sft.journal import Journal
from narrowband.sft.manifest import write_provenance
from narrowband.sft.model import Limits, PlainModel
from narrowband.sft.rounds import Inputs, SftRun
from narrowband.sft.sentinels import Examination, ask_sentinels
from narrowband.sft.vllm import VllmBackend


@dataclass(frozen=True)
class Settings:
    """Who writes SFT records and how; `recorded` are the parameters that `manifest.json` repeats."""

    base_model: str
    backend: BackendName
    limits: Limits
    seed: int
    data: Data
    recorded: Mapping[str, Any]


def write_sft(settings: Settings, inputs: Inputs, folder: Path, journal: Journal) -> dict[str, Any]:
    """Write records, rejected candidates, manifest and card to `folder`; returns all figures of the run.

    A run that was killed continues from its `journal` and writes the same bytes as one that was not.

    Raises:
        InputError: the base model or its BOS can't be used, the pilot misses a gate, or the instructions run out.
    """
    if journal.recorded:
        console.print(f"SFT records: resuming after {journal.recorded} batches")
    backend = open_backend(settings.base_model, settings.backend, settings.seed)
    with progress() as shown:
        call = shown.add_task("prompts of this call", total=None)
        plain = PlainModel(
            backend=backend,
            tokenizer=load_tokenizer(settings.base_model),
            journal=journal,
            limits=settings.limits,
            on_batch=lambda done, total: shown.update(call, completed=done, total=total),
        )
        model, bos = with_bos(plain, settings.data.bos, inputs)
        console.print(f"BOS is {'added' if bos.added else 'not added'}: {bos.reason}")
        found = ask_sentinels(model, inputs.pool)
        console.print(found.sentence if found.kind == "base" else _warning(found.sentence))
        provenance = _provenance(settings, model)
        run = SftRun(model, settings.data, settings.seed, inputs, provenance)
        console.print(run.reliability.sentence)
        records = shown.add_task("SFT records", total=settings.data.sft_records)
        _write_records(run, folder, lambda n: shown.advance(records, n))
        details = _details(run, bos, found, folder)
    pools = [Path(settings.data.few_shot_pool), Path(settings.data.instruction_pool)]
    content = {**provenance, "fingerprint": journal.fingerprint, "parameters": settings.recorded, **details}
    write_provenance(folder, content, pools, run.counts.kept.total())
    journal.discard()
    return details


def open_backend(base_model: str, name: BackendName, seed: int) -> Backend:
    """The backend called `name`, with the base model loaded; vLLM also takes a seed of its own."""
    return VllmBackend.load(base_model, seed) if name == "vllm" else TransformersBackend(FrozenLM.load(base_model))


def with_bos(model: PlainModel, setting: SftBos, inputs: Inputs) -> tuple[PlainModel, BosChoice]:
    """The model with BOS before its prompts or not, as `data.bos` says; `auto` measures the pools' texts.

    The log-likelihoods are measured and reported with every setting.

    Raises:
        InputError: `text` asks for a BOS that the tokenizer lacks, or that is a chat delimiter.
    """
    tokenizer = model.tokenizer
    require_bos("data.bos", setting, tokenizer)
    examples = [f"{example.instruction}\n{example.completion}" for example in inputs.pool]
    step = max(1, len(inputs.instructions) // len(examples))
    texts = [*examples, *(instruction.text for instruction in inputs.instructions[::step])]
    choice = measure_bos(tokenizer, texts, model.log_probs)
    if setting != "auto":
        choice = choice._replace(added=setting == "text", reason=f"data.bos is {setting}")
    return (replace(model, bos=(int(tokenizer.bos_token_id),)) if choice.added else model), choice


def _provenance(settings: Settings, model: PlainModel) -> dict[str, Any]:
    """The fields of every record that say who wrote it."""
    return {
        "backend": settings.backend,
        "prompt_style": settings.data.prompt_style,
        "bos": str(model.tokenizer.bos_token) if model.bos else None,
        "model": {"name": settings.base_model, "revision": model_revision(settings.base_model)},
    }


def _write_records(run: SftRun, folder: Path, advance: Callable[[int], None]) -> None:
    with (
        whole_file(folder / "train.jsonl") as records,
        records.open("w", encoding="utf-8") as train,
        whole_file(folder / "rejected.jsonl") as others,
        others.open("w", encoding="utf-8") as rejected,
    ):
        run.write(train, rejected, advance)


def _details(run: SftRun, bos: BosChoice, found: Examination, folder: Path) -> dict[str, Any]:
    """All figures of a run, for `manifest.json`."""
    examples = {example.id: example for example in run.inputs.pool}
    return {
        "bos_choice": told(bos),
        "sentinels": {"kind": found.kind, "verdict": found.sentence, **found._asdict()},
        "critic": {**run.reliability._asdict(), "verdict": run.reliability.sentence},
        **run.figures(),
        "broken": audit(folder / "train.jsonl", examples, run.inputs.test),
    }


def headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The few figures for `metrics/data.json`; `broken` counts violated claims (see `audit`)."""
    bos, sentinels, critic = (figures[name] for name in ("bos_choice", "sentinels", "critic"))
    return {
        "kept": figures["shares"]["kept"]["share"],
        "critic": critic["verdict"],
        "critic_auc": critic["pair_auc"],
        "model_kind": sentinels["kind"],
        "bos_added": bos["added"],
        **{f"log_likelihood_{name}": bos[name] for name in ("with_bos", "without_bos") if name in bos},
        "broken": sum(figures["broken"].values()),
    }


def _warning(sentence: str) -> Panel:
    return Panel(Text(sentence, style="bold"), title="WARNING", border_style="bold red")
