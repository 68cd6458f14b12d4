"""Ways to send embeddings that do not depend on the codec: F1 against bits per token."""

from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch
from narrowband.runtime.parameters import load_params


def main() -> None:
    """Evaluate every reference on the first `baselines.questions` test questions; write the rows to artifacts/references."""
    params = load_params()

    from narrowband.data.prompts import say_truncated, truncated_share
    from narrowband.data.squad import read_squad, stream_squad
    from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet
    from narrowband.evaluation.baselines import TrainingText
    from narrowband.evaluation.curve import curve, curve_table, references
    from narrowband.evaluation.systems import answer_settings
    from narrowband.evaluation.uncompressed import read_uncompressed
    from narrowband.lm.model_revision import model_revision
    from narrowband.runtime.artifacts import checked, write_config
    from narrowband.runtime.files import write_json

    set_up_torch()
    answerer, file = QuestionAnswerer.load(params), checked(paths.QA / "test.json")
    train = answerer.encode(stream_squad(checked(paths.QA / "train.json")))
    say_truncated(truncated_share(train), answerer.prompt)
    text = TrainingText(answerer, train, params.seed, params.latent_coding.bits_per_token, params.vocabulary_share)
    settings = answer_settings(answerer, file, model_revision(params.base_model), params.source)
    examples, count = read_squad(file), params.baselines.questions
    own = read_uncompressed("test", examples, settings).predictions
    rows = curve(answerer, references(text), own, QuestionSet(examples[:count], params.seed))
    write_json(paths.REFERENCES / "rows.json", rows)
    write_config(paths.REFERENCES, text.settings(settings, count))
    console.print(curve_table(rows))


if __name__ == "__main__":
    run(main)
