"""Train an encoder whose latents the frozen language model reads in place of a context's tokens."""

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.fingerprint import stage_fingerprint
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Train the encoder; write artifacts/reader and results/reader.json, which are empty at one token per position."""
    params = load_params()

    from narrowband.runtime.artifacts import checked, write_config
    from narrowband.runtime.files import write_json, write_text

    if params.reader.tokens_per_position == 1:
        paths.READER.mkdir(parents=True, exist_ok=True)
        write_config(paths.READER, {"tokens_per_position": 1})
        write_json(paths.RESULTS / "reader.json", {})
        write_text(paths.LOG / "reader" / "evaluations.csv", "step,f1,em\n")
        console.print("reader.tokens_per_position is 1: contexts are read as text, and nothing is trained")
        return

    from narrowband.data.splits import BUNDLED
    from narrowband.data.squad import read_squad
    from narrowband.evaluation.answer import QuestionAnswerer
    from narrowband.evaluation.systems import validation_questions
    from narrowband.lm.base_model import max_positions
    from narrowband.reader.encoder import ContextEncoder, ReaderConfig
    from narrowband.training.draws import Draws
    from narrowband.training.phases import PhaseRun
    from narrowband.training.reader import Lessons, drawn_questions, fresh_questions, reader_evaluation, reader_loss

    set_up_torch()
    reader, seed = params.reader, params.seed
    answerer = QuestionAnswerer.load(params)
    lm, prompt = answerer.lm, answerer.prompt
    encoder = ContextEncoder(lm, ReaderConfig.of(params), seed=seed)
    if params.dataset == BUNDLED:
        n, questions = reader.batch_size, fresh_questions(seed, reader.batch_size)
    else:
        examples = read_squad(checked(paths.QA / "train.json"))
        n, questions = len(examples), drawn_questions(examples, Draws(seed, reader.batch_size))
    lessons = Lessons(lm.tokenizer, prompt, questions, reader.pretrain_steps, max_positions(lm.model))
    loss = reader_loss(lm, encoder, lessons, params.loss.phase2)
    phase = PhaseRun("reader", reader, seed, stage_fingerprint("train_reader"))
    evaluate = reader_evaluation(answerer, encoder, validation_questions(params.data.quick))
    figures = phase.train(encoder, loss, n, evaluate)
    phase.save(encoder, figures, {"base_model": params.base_model, "prompt": prompt.model_dump()})


if __name__ == "__main__":
    run(
        main,
        needs_less_memory="set reader.micro_batch to fewer prompts, reader.tokens_per_position to fewer tokens or, with "
        "blocks in the encoder, reader.depth to fewer of them",
    )
