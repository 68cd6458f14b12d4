"""The uncompressed model's answers to the test questions, which every codec is compared with."""

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Answer the test questions without a codec; write the answers to artifacts/uncompressed."""
    params = load_params()

    from narrowband.data.prompts import say_truncated
    from narrowband.data.squad import read_squad
    from narrowband.evaluation.answer import QuestionAnswerer
    from narrowband.evaluation.systems import answer_settings
    from narrowband.evaluation.uncompressed import write_uncompressed
    from narrowband.lm.model_revision import model_revision
    from narrowband.runtime import distributed
    from narrowband.runtime.artifacts import checked
    from narrowband.runtime.progress import bar

    set_up_torch()
    answerer, questions = QuestionAnswerer.load(params), checked(paths.QA / "test.json")
    examples = read_squad(questions)
    with bar("questions", len(examples), console) as advance:
        own = answerer.answer(None, examples, advance=advance)
    say_truncated(own.truncated_share, answerer.prompt, console)
    if distributed.is_main():
        settings = answer_settings(answerer, questions, model_revision(params.base_model), params.source)
        write_uncompressed(own, settings)
    console.print(f"uncompressed: F1 {own.f1:.2f}, EM {own.em:.2f}", highlight=False)


if __name__ == "__main__":
    run(main)
