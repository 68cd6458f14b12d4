"""A training phase from files to files: what `stages/train_phase1.py` and `stages/train_phase2.py` have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from dvclive import Live
from rich.markup import escape

from narrowband.codec.batches import CALIBRATION_PROMPTS, embedded
from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.data.encoded import read_prompts
from narrowband.data.prompts import encode_answer, encode_prompt
from narrowband.data.squad import Example, read_squad
from narrowband.evaluation.answer import answer
from narrowband.evaluation.tokens import marked, token_view
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.source import model_revision
from narrowband.params import Params
from narrowband.runtime import distributed
from narrowband.runtime.artifacts import MANIFEST, checked
from narrowband.runtime.entry import console
from narrowband.runtime.files import write_json, write_text
from narrowband.training.alarms import alarms
from narrowband.training.checkpoint import run_fingerprint
from narrowband.training.loop import Evaluation, Schedule, StepLoss, train
from narrowband.training.micro_batches import own_parts
from narrowband.training.phase1 import phase1_loss
from narrowband.training.phase2 import Lesson, phase2_loss
from narrowband.training.self_distillation import read_sft, response_kl

CHECKPOINTS = Path(".checkpoints")

Phase = Literal["phase1", "phase2"]


class StepLog:
    """Logs every step to DVCLive, and the evaluations among them to `evaluations.csv` as well, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._evaluations: list[dict[str, float]] = []

    @cached_property
    def _live(self) -> Live:
        """Replaces what an earlier run has logged, so it waits for the first step."""
        return Live(str(self.folder), dvcyaml=None, save_dvc_exp=False, report=None)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step."""
        self._live.step = step
        if "f1" in values:
            self._evaluations.append({"step": step, **values})
        for name, value in values.items():
            self._live.log_metric(name, value, plot=True)

    def close(self) -> None:
        """Write what is left to write."""
        self._live.end()
        rows = [",".join(f"{value:.6g}" for value in row.values()) for row in self._evaluations]
        write_text(self.folder / "evaluations.csv", "\n".join([",".join(self._evaluations[0]), *rows]) + "\n")


def read_lessons(lm: FrozenLM, path: Path, params: Params) -> list[Lesson]:
    """The questions of a QA file with their first gold answers."""
    prompts = read_prompts(lm.tokenizer, path, params.prompt)
    answers = (encode_answer(lm.tokenizer, example.golds[0]) for example in read_squad(path))
    return [Lesson(*pair) for pair in zip(prompts, answers, strict=True)]


def quick_evaluation(
    phase: Phase, lm: FrozenLM, codec: Codec, examples: Sequence[Example], params: Params
) -> Callable[[], Evaluation]:
    """An evaluation on `examples` that also prints the first of them with its reconstructed tokens."""
    first = examples[0]
    prompt = encode_prompt(lm.tokenizer, first.context, first.question, params.prompt)

    def evaluate() -> Evaluation:
        result = answer(lm, codec, examples, params)
        said = f"{phase}: expected {first.golds[0]!r}, answered {result.predictions[first.id]!r} to"
        console.print(said, marked(token_view(lm, codec, prompt)))
        for sentence in alarms(result, examples, phase):
            console.print(f"[bold red]{phase}, warning:[/] {escape(sentence)}", highlight=False)
        return Evaluation(result.f1, {"f1": result.f1, "em": result.em, **result.quality})

    return evaluate


def step_losses(
    phase: Phase, lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson], sft: Sequence[Lesson], params: Params
) -> Callable[[int], Iterable[StepLoss]]:
    """The losses of the parts of a step's batch that this process computes; Phase 2 draws on `sft` too, if it is asked to."""
    loss = (
        phase1_loss(lm, codec, [lesson.prompt for lesson in lessons], params)
        if phase == "phase1"
        else phase2_loss(lm, codec, lessons, params, sft)
    )
    training = params.phase1 if phase == "phase1" else params.phase2
    drawn_on = [lessons, sft] if sft and params.data.phase2_sft_share else [lessons]
    parts = own_parts(min(training.batch_size, *map(len, drawn_on)), training.micro_batch)
    return lambda step: (loss(step, part) for part in parts)


def train_phase(
    phase: Phase,
    params: Params,
    qa: Path,
    pca_folder: Path,
    start: Path | None,
    out: Path,
    metrics: Path,
    log: Path,
    sft: Path | None = None,
) -> None:
    """Train the adapter and write its best weights to `out`, its validation figures to `metrics`, its steps to `log`.

    `start` is the folder of the adapter to begin from; `None` begins from a new one. `sft` is the folder of the records
    that Phase 2 draws a share of its batches from, if it draws any, and is held to in `sft_kl`.
    """
    lm = FrozenLM.load(params.base_model)
    if phase == "phase2" and params.phase2.gradient_checkpointing:
        lm.checkpoint_gradients()
    pca = PCA.load(pca_folder, params).to(lm.device)
    codec = Codec.load(start, pca, lm.hidden_size, params) if start else Codec(pca, lm.hidden_size, params)
    training = params.phase1 if phase == "phase1" else params.phase2
    trainable = [p for p in codec.parameters() if p.requires_grad]
    console.print(
        f"{phase}: {sum(p.numel() for p in trainable):,} trainable and "
        f"{sum(p.numel() for p in lm.model.parameters()):,} frozen parameters"
    )

    lessons = read_lessons(lm, checked(qa / "train.json"), params)
    prompts = [lesson.prompt for lesson in lessons]
    share = params.data.phase2_sft_share
    records = sft if share or params.data.sft_records > 1 else None
    sft_lessons, held_out = read_sft(checked(records / "train.jsonl", MANIFEST), lm.tokenizer) if records else ([], [])
    if start is None and params.magnitude == "calibrated":
        codec.calibrate(embedded(lm, prompts[:CALIBRATION_PROMPTS], params.generation.batch_size))

    files = [file for folder in (qa, pca_folder, start, records) if folder for file in folder.iterdir()]
    steps = StepLog(log) if distributed.is_main() else None
    outcome = train(
        codec,
        [torch.optim.AdamW(trainable, lr=training.lr)],
        step_losses(phase, lm, codec, lessons, sft_lessons, params),
        quick_evaluation(phase, lm, codec, read_squad(checked(qa / "validation.json"))[: params.data.quick], params),
        schedule=Schedule(training.steps, training.warmup, training.evaluate_every, training.patience),
        seed=params.seed,
        checkpoint=CHECKPOINTS / f"{phase}.safetensors",
        fingerprint=run_fingerprint(model_revision(params.base_model) + params.model_dump_json(), files),
        log=steps.record if steps else lambda step, values: None,
        console=console,
        title=phase,
    )
    codec.load_state_dict(outcome.best, strict=False)
    sft_kl = {"sft_kl": response_kl(lm, codec, held_out, params.generation.batch_size)} if held_out else {}
    if steps is None:
        return
    steps.close()
    losses = params.loss.phase1 if phase == "phase1" else params.loss
    codec.save(out, params, {"phase": phase, "loss": losses.model_dump(), "training": training.model_dump()})
    write_json(metrics, {**outcome.best_metrics, **sft_kl, "best_step": outcome.best_step})
    (CHECKPOINTS / f"{phase}.safetensors").unlink()
