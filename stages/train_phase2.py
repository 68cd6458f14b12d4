"""Phase 2: train the adapter through the frozen language model, from the Phase 1 adapter or from scratch."""

from narrowband.runtime import paths
from narrowband.runtime.entry import run, set_up_torch
from narrowband.runtime.fingerprint import stage_fingerprint
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Train on questions and SFT records, starting from artifacts/phase1; write artifacts/phase2 and metrics/phase2.json."""
    params = load_params()

    from narrowband.codec.config import CodecConfig
    from narrowband.data.prompts import say_truncated, truncated_share
    from narrowband.evaluation.answer import QuestionAnswerer
    from narrowband.evaluation.systems import validation_questions
    from narrowband.runtime.artifacts import checked
    from narrowband.training.phase2 import Material, phase2_loss
    from narrowband.training.phases import (
        PhaseRun,
        known_evaluation,
        quick_evaluation,
        read_lessons,
        starting_codec,
        uncompressed_f1,
        validated_with,
    )
    from narrowband.training.self_distillation import read_sft, response_kl

    set_up_torch()
    phase2, answerer = params.phase2, QuestionAnswerer.load(params)
    lm = answerer.lm
    if phase2.gradient_checkpointing:
        lm.checkpoint_gradients()
    config = CodecConfig.of(params)
    codec = starting_codec(answerer, config, phase2.start, params.seed)
    lessons = read_lessons(answerer, checked(paths.QA / "train.json"))
    say_truncated(truncated_share([lesson.prompt for lesson in lessons]), answerer.prompt)
    sft, held_out = read_sft(paths.SFT, lm.tokenizer)
    share = params.data.phase2_sft_share
    loss = phase2_loss(lm, codec, Material(lessons, params.seed, sft, share), phase2, params.loss)
    goal = uncompressed_f1(answerer, config, params.data.quick)
    phase = PhaseRun("phase2", phase2, params.seed, stage_fingerprint("train_phase2"), goal)
    evaluate = quick_evaluation("phase2", answerer, codec, validation_questions(params.data.quick))
    fewest = min(len(lessons), len(sft)) if share else len(lessons)
    settings = validated_with(answerer, config, params.data.quick)
    before = known_evaluation(paths.PHASE1, settings) if phase2.start == "phase1" else None
    figures = phase.train(codec, loss, fewest, evaluate, before)
    if held_out:
        figures["sft_kl"] = response_kl(lm, codec, held_out, answerer.batch_size)
    phase.save(codec, figures, {"base_model": params.base_model, "loss": params.loss.model_dump()})


if __name__ == "__main__":
    run(
        main,
        needs_less_memory="set phase2.micro_batch to fewer prompts or phase2.gradient_checkpointing to true, "
        "or lower generation.batch_size",
    )
