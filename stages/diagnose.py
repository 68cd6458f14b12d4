"""Say what is wrong with a run and what to try next; write the report."""

from narrowband.params import EMBEDDINGS
from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Diagnose the evaluated run; write figures to results/diagnosis.json, page and plots to report/."""
    params = load_params()

    from narrowband.runtime.files import write_json

    if params.source != EMBEDDINGS:
        write_json(paths.RESULTS / "diagnosis.json", {})
        write_json(paths.REPORT / "norms.json", [])
        console.print(f"source is {params.source}: verdicts and report are about tokens, so there are none")
        return

    from narrowband.codec.codec import Codec
    from narrowband.codec.config import CodecConfig
    from narrowband.codec.spectrum import prompt_spectrum
    from narrowband.data.prompts import coded_counts, say_truncated, truncated_share
    from narrowband.data.squad import read_squad, stream_squad
    from narrowband.diagnosis.figures import diagnose
    from narrowband.diagnosis.reconstructions import histogram
    from narrowband.diagnosis.verdicts import summary, verdict_lines, verdicts
    from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet
    from narrowband.evaluation.systems import load_systems, read_predictions
    from narrowband.report.examples import first_examples
    from narrowband.report.page import Diagnosed, read_results, write_report
    from narrowband.runtime.artifacts import checked
    from narrowband.runtime.progress import bar
    from narrowband.runtime.rounding import rounded

    set_up_torch()
    config, answerer = CodecConfig.of(params), QuestionAnswerer.load(params)
    systems: dict[str, Codec | None] = {"uncompressed": None, **load_systems(answerer, config)}
    file, results = checked(paths.QA / "test.json"), read_results()
    examples, answers = read_squad(file), read_predictions(answerer, config, file, systems)
    train = answerer.encode(stream_squad(checked(paths.QA / "train.json")))
    say_truncated(truncated_share(train), answerer.prompt)
    seen, _ = coded_counts(train)
    with bar("systems", len(systems) - 1) as advance:
        diagnosis = diagnose(answerer, systems, QuestionSet(examples, params.seed, seen), answers, advance)
    found = verdicts(diagnosis, params, answerer.lm.hidden_size)
    figures, norms = rounded(summary(diagnosis, found)), rounded(histogram(diagnosis.norms))
    shown = rounded(first_examples(answerer, systems, examples, answers))
    diagnosed = Diagnosed(figures, norms, shown, prompt_spectrum(answerer.lm, train))
    write_report(params, results, diagnosed)
    for line in verdict_lines(found):
        console.print(line, highlight=False)


if __name__ == "__main__":
    run(main)
