"""Phase 1: fit the adapter's detectors, and train it to reconstruct prompt embeddings."""

from narrowband.runtime import paths
from narrowband.runtime.entry import run, set_up_torch
from narrowband.runtime.fingerprint import stage_fingerprint
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Train on the training questions with artifacts/pca; write artifacts/phase1 and metrics/phase1.json."""
    params = load_params()

    from narrowband.codec.config import CodecConfig
    from narrowband.data.prompts import say_truncated, truncated_share
    from narrowband.data.squad import stream_squad
    from narrowband.evaluation.answer import QuestionAnswerer
    from narrowband.evaluation.systems import validation_questions
    from narrowband.runtime.artifacts import checked
    from narrowband.training.draws import Draws
    from narrowband.training.phase1 import drawn_prompts, fit_detectors, phase1_loss
    from narrowband.training.phases import (
        VALIDATED_WITH,
        PhaseRun,
        quick_evaluation,
        starting_codec,
        uncompressed_f1,
        validated_with,
    )

    set_up_torch()
    phase1, answerer = params.phase1, QuestionAnswerer.load(params)
    config = CodecConfig.of(params)
    codec = starting_codec(answerer, config, "scratch", params.seed)
    prompts = answerer.encode(stream_squad(checked(paths.QA / "train.json")))
    say_truncated(truncated_share(prompts), answerer.prompt)
    draws = Draws(params.seed, phase1.batch_size)
    drawn = drawn_prompts(answerer.lm.tokenizer, prompts, draws, params.vocabulary_share)
    loss = phase1_loss(answerer.lm, codec, drawn, params.loss.phase1)
    goal = uncompressed_f1(answerer, config, params.data.quick)
    fit_detectors(answerer.lm, codec, drawn, phase1.batch_size)
    phase = PhaseRun("phase1", phase1, params.seed, stage_fingerprint("train_phase1"), goal)
    evaluate = quick_evaluation("phase1", answerer, codec, validation_questions(params.data.quick))
    figures = phase.train(codec, loss, len(prompts), evaluate)
    made_with = {"base_model": params.base_model, "loss": params.loss.phase1.model_dump()}
    phase.save(codec, figures, {**made_with, VALIDATED_WITH: validated_with(answerer, config, params.data.quick)})


if __name__ == "__main__":
    run(main, needs_less_memory="set phase1.micro_batch to fewer prompts, or lower generation.batch_size")
