"""Answer the test questions with every system, by free-running generation, and score them."""

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Evaluate on the test split; write metrics/evaluate.json, results/evaluate.json and the predictions."""
    params = load_params()

    from narrowband.codec.config import CodecConfig
    from narrowband.data.prompts import coded_counts
    from narrowband.data.squad import read_squad, stream_squad
    from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet
    from narrowband.evaluation.compare import compare, with_reader
    from narrowband.evaluation.headline import headline_table
    from narrowband.evaluation.reading import read_by_all
    from narrowband.evaluation.systems import answer_settings, evaluated, load_systems
    from narrowband.evaluation.uncompressed import read_uncompressed
    from narrowband.reader.encoder import ContextEncoder, ReaderConfig
    from narrowband.runtime import distributed
    from narrowband.runtime.artifacts import checked, write_config
    from narrowband.runtime.files import write_json
    from narrowband.runtime.rounding import rounded

    set_up_torch()
    config, answerer = CodecConfig.of(params), QuestionAnswerer.load(params)
    file = checked(paths.QA / "test.json")
    systems = load_systems(answerer, config)
    seen, _ = coded_counts(answerer.encode(stream_squad(checked(paths.QA / "train.json"))))
    examples, reading = read_squad(file), ReaderConfig.of(params)
    settings = answer_settings(answerer, file, config.base_model_revision, config.source)
    own = read_uncompressed("test", examples, settings)
    questions = QuestionSet(examples, params.seed, seen)
    comparison = compare(answerer, systems, own, questions)
    if reading.tokens_per_position > 1:
        encoder = ContextEncoder.load(paths.READER, answerer.lm, reading)
        comparison = with_reader(comparison, read_by_all(answerer, encoder, examples), questions)
    if not distributed.is_main():
        return
    for name, predictions in comparison.predictions.items():
        write_json(paths.PREDICTIONS / f"predictions_{name}.json", predictions)
    write_config(paths.PREDICTIONS, evaluated(answerer, config, file))
    headline, details = rounded(comparison.headline), rounded(comparison.details)
    write_json(paths.METRICS / "evaluate.json", headline)
    write_json(paths.RESULTS / "evaluate.json", details)
    console.print(headline_table(headline, details))


if __name__ == "__main__":
    run(main)
