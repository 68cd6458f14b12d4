"""A training phase from files to files: what `stages/train_phase1.py` and `stages/train_phase2.py` have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from dvclive import Live

from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.data.embedded import CALIBRATION_PROMPTS, embedded
from narrowband.data.prompts import encode_answer, encode_prompt
from narrowband.data.squad import read_squad
from narrowband.evaluation.generate import answer
from narrowband.evaluation.tokens import marked, token_view
from narrowband.files import write_json, write_text
from narrowband.lm import FrozenLM
from narrowband.params import load_params
from narrowband.stage import console
from narrowband.training.checkpoint import run_fingerprint
from narrowband.training.loop import Evaluation, train
from narrowband.training.phase1 import phase1_loss
from narrowband.training.phase2 import Lesson, phase2_loss
from narrowband.training.self_distillation import read_sft, response_kl

CHECKPOINTS = Path(".checkpoints")


def train_phase(
    phase: Literal["phase1", "phase2"],
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
    that Phase 2 draws a share of its batches from, if it draws any.
    """
    params = load_params()
    lm = FrozenLM.load(params.base_model)
    pca = PCA.load(pca_folder).to(lm.device)
    codec = Codec.load(start, pca, lm.hidden_size, params) if start else Codec(pca, lm.hidden_size, params)
    training = params.phase1 if phase == "phase1" else params.phase2

    lessons = [
        Lesson(
            encode_prompt(lm.tokenizer, e.context, e.question, params.prompt), encode_answer(lm.tokenizer, e.golds[0])
        )
        for e in read_squad(qa / "train.json")
    ]
    records = sft if sft and params.data.phase2_sft_share else None
    sft_lessons, held_out = read_sft(records / "train.jsonl", lm.tokenizer) if records else ([], [])
    prompts = [lesson.prompt for lesson in lessons]
    if start is None and params.magnitude == "calibrated":
        codec.calibrate(embedded(lm, prompts[:CALIBRATION_PROMPTS], params.generation.batch_size))
    quick = read_squad(qa / "validation.json")[: params.data.quick]
    trainable = sum(p.numel() for p in codec.parameters() if p.requires_grad)
    console.print(
        f"{phase}: {trainable:,} trainable and {sum(p.numel() for p in lm.model.parameters()):,} frozen parameters"
    )

    def evaluate() -> Evaluation:
        result = answer(lm, codec, quick, params)
        view = token_view(lm, codec, encode_prompt(lm.tokenizer, quick[0].context, quick[0].question, params.prompt))
        console.print(
            f"{phase}: expected {quick[0].golds[0]!r}, answered {result.predictions[quick[0].id]!r} to", marked(view)
        )
        return Evaluation(result.f1, {"f1": result.f1, "em": result.em, **result.quality})

    read = [qa, pca_folder, Path(params.base_model), *([start] if start else []), *([records] if records else [])]
    files = [file for folder in read if folder.is_dir() for file in folder.iterdir()]
    evaluations: list[dict[str, float]] = []
    with Live(str(log), dvcyaml=None, save_dvc_exp=False, report=None) as live:

        def record(step: int, values: Mapping[str, float]) -> None:
            live.step = step
            if "f1" in values:
                evaluations.append({"step": step, **values})
            for name, value in values.items():
                live.log_metric(name, value, plot=True)

        outcome = train(
            codec,
            [torch.optim.AdamW([p for p in codec.parameters() if p.requires_grad], lr=training.lr)],
            phase1_loss(lm, codec, prompts, params)
            if phase == "phase1"
            else phase2_loss(lm, codec, lessons, params, sft_lessons),
            evaluate,
            steps=training.steps,
            warmup=training.warmup,
            evaluate_every=training.evaluate_every,
            seed=params.seed,
            checkpoint=CHECKPOINTS / f"{phase}.safetensors",
            fingerprint=run_fingerprint(params.model_dump_json(), files),
            log=record,
            console=console,
            title=phase,
        )
    rows = [",".join(f"{value:.6g}" for value in row.values()) for row in evaluations]
    write_text(log / "evaluations.csv", "\n".join([",".join(evaluations[0]), *rows]) + "\n")
    codec.load_state_dict(outcome.best, strict=False)
    codec.save(out, {"base_model": params.base_model, "window": params.window, "compress_dim": params.compress_dim})
    sft_kl = {"sft_kl": response_kl(lm, codec, held_out, params.generation.batch_size)} if held_out else {}
    write_json(metrics, {**outcome.best_metrics, **sft_kl, "best_step": outcome.best_step})
    (CHECKPOINTS / f"{phase}.safetensors").unlink()
