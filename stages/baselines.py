"""Compare PCA and its adapters with simpler ways to send embeddings: F1 against bits per token."""

from narrowband.params import load_params
from narrowband.runtime import paths
from narrowband.runtime.entry import console, run, set_up_torch


def main() -> None:
    """Evaluate all systems on the first `baselines.questions` test questions; write the curve to results/baselines.json."""
    params = load_params()

    from narrowband.codec.config import CodecConfig
    from narrowband.data.prompts import say_truncated, truncated_share
    from narrowband.data.squad import read_squad, stream_squad
    from narrowband.evaluation.answer import QuestionAnswerer
    from narrowband.evaluation.baselines import Fitting
    from narrowband.evaluation.curve import adapters, baselines, curve, curve_table
    from narrowband.evaluation.systems import asked, load_systems
    from narrowband.evaluation.uncompressed import read_uncompressed
    from narrowband.runtime.artifacts import checked
    from narrowband.runtime.files import read_json, write_json
    from narrowband.runtime.rounding import rounded

    set_up_torch()
    answerer, questions = QuestionAnswerer.load(params), checked(paths.QA / "test.json")
    systems = load_systems(answerer, CodecConfig.of(params))
    pca, phase1, phase2 = (systems[name] for name in ("pca", "phase1", "phase2"))
    assert pca and phase1 and phase2
    train = answerer.encode(stream_squad(checked(paths.QA / "train.json")))
    say_truncated(truncated_share(train), answerer.prompt, console)
    fitting = Fitting(answerer, train, params.seed, params.latent_coding.bits_per_token, pca)
    entries = [*baselines(fitting), *adapters(fitting, phase1, phase2)]
    examples = read_squad(questions)
    own = read_uncompressed(examples, asked(answerer, questions)).predictions
    few = examples[: params.baselines.questions]
    *references, control = read_json(checked(paths.REFERENCES / "rows.json"))
    rows = [*references, *curve(answerer, entries, few, own, params.seed, console)]
    write_json(paths.RESULTS / "baselines.json", rounded({"rows": rows, "control": control}))
    console.print(curve_table([*rows, control]))


if __name__ == "__main__":
    run(main)
