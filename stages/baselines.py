"""Compare PCA and its adapters with simpler ways to send embeddings: F1 against bits per token."""

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Evaluate all systems on the first `baselines.questions` test questions; write the curve to results/baselines.json."""
    params = load_params()

    from narrowband.codec.config import CodecConfig
    from narrowband.data.prompts import say_truncated, truncated_share
    from narrowband.data.squad import read_squad, stream_squad
    from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet
    from narrowband.evaluation.baselines import Fitting
    from narrowband.evaluation.curve import adapters, baselines, curve, curve_table, with_answers
    from narrowband.evaluation.systems import answer_settings, load_systems, read_predictions
    from narrowband.evaluation.uncompressed import read_uncompressed
    from narrowband.runtime.artifacts import checked, read_config
    from narrowband.runtime.files import read_json, write_json
    from narrowband.runtime.rounding import rounded

    set_up_torch()
    answerer, file = QuestionAnswerer.load(params), checked(paths.QA / "test.json")
    config = CodecConfig.of(params)
    systems = load_systems(answerer, config)
    train = answerer.encode(stream_squad(checked(paths.QA / "train.json")))
    say_truncated(truncated_share(train), answerer.prompt)
    rate, share = params.latent_coding.bits_per_token, params.vocabulary_share
    fitting = Fitting(answerer, train, params.seed, rate, share, systems["pca"])
    examples, count = read_squad(file), params.baselines.questions
    settings = answer_settings(answerer, file, config.base_model_revision, config.source)
    own = read_uncompressed("test", examples, settings).predictions
    read_config(paths.REFERENCES, fitting.settings(settings, count))
    *references, nothing_sent = read_json(checked(paths.REFERENCES / "rows.json"))
    answers = read_predictions(answerer, config, file, systems)
    entries = [*baselines(fitting), *adapters(fitting, systems["phase1"], systems["phase2"])]
    entries = with_answers(entries, config, answers)
    questions = QuestionSet(examples[:count], params.seed)
    rows = [*references, *curve(answerer, entries, own, questions)]
    write_json(paths.RESULTS / "baselines.json", rounded({"rows": rows, "nothing_sent": nothing_sent}))
    console.print(curve_table([*rows, nothing_sent]))


if __name__ == "__main__":
    run(main)
