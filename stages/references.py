"""Answers that do not depend on the codec: the uncompressed model's, and of other ways to send embeddings."""

from narrowband.params import load_params
from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch


def main() -> None:
    """Answer the test questions uncompressed, the first `baselines.questions` of them by every reference, too."""
    params = load_params()

    from narrowband.data.prompts import say_truncated
    from narrowband.data.squad import read_squad, stream_squad
    from narrowband.evaluation.answer import QuestionAnswerer
    from narrowband.evaluation.baselines import TrainingText
    from narrowband.evaluation.curve import curve, references
    from narrowband.evaluation.systems import asked
    from narrowband.evaluation.uncompressed import write_uncompressed
    from narrowband.runtime import distributed
    from narrowband.runtime.artifacts import checked, write_config
    from narrowband.runtime.files import write_json
    from narrowband.runtime.progress import bar

    set_up_torch()
    answerer, questions = QuestionAnswerer.load(params), checked(paths.QA / "test.json")
    examples = read_squad(questions)
    with bar("questions, uncompressed", len(examples), console) as advance:
        own = answerer.answer(None, examples, advance=advance)
    say_truncated(own.truncated_share, answerer.prompt, console)
    train = answerer.encode(stream_squad(checked(paths.QA / "train.json")))
    text = TrainingText(answerer, train, params.seed, params.latent_coding.bits_per_token)
    few = examples[: params.baselines.questions]
    rows = curve(answerer, references(text), few, own.predictions, params.seed, console)
    if not distributed.is_main():
        return
    settings = asked(answerer, questions)
    write_uncompressed(own, settings)
    write_json(paths.REFERENCES / "rows.json", rows)
    write_config(paths.REFERENCES, {**settings, "bits_per_token": text.bits_per_token})
    console.print(f"uncompressed: F1 {own.f1:.2f}, EM {own.em:.2f}", highlight=False)


if __name__ == "__main__":
    run(main)
