"""The uncompressed model's answers, which every codec is compared with, in training as on the test split."""

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Answer test and validation questions without a codec; write the answers to artifacts/uncompressed."""
    params = load_params()

    from narrowband.data.prompts import say_truncated
    from narrowband.data.squad import read_squad
    from narrowband.evaluation.answer import QuestionAnswerer
    from narrowband.evaluation.systems import answer_settings, validation_questions, validation_settings
    from narrowband.evaluation.uncompressed import write_uncompressed
    from narrowband.lm.model_revision import model_revision
    from narrowband.runtime import distributed
    from narrowband.runtime.artifacts import checked
    from narrowband.runtime.progress import bar

    set_up_torch()
    answerer, questions = QuestionAnswerer.load(params), checked(paths.QA / "test.json")
    examples, validation = read_squad(questions), validation_questions(params.data.quick)
    with bar("questions", len(examples) + len(validation)) as advance:
        own, validated = (answerer.answer(None, some, advance=advance) for some in (examples, validation))
    say_truncated(own.truncated_share, answerer.prompt)
    if distributed.is_main():
        about = model_revision(params.base_model), params.source
        write_uncompressed("test", own, answer_settings(answerer, questions, *about))
        write_uncompressed("validation", validated, validation_settings(answerer, *about, params.data.quick))
    said = f"uncompressed: F1 {own.f1:.2f}, EM {own.em:.2f}; on {len(validation)} validation questions F1 {validated.f1:.2f}"
    console.print(said, highlight=False)


if __name__ == "__main__":
    run(main)
