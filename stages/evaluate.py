"""Answer the test questions with every system, by free-running generation, and score them."""

from pathlib import Path

from narrowband.stage import console, run, set_up_torch


def main(qa: Path, pca: Path, phase1: Path, phase2: Path, out: Path, metrics: Path) -> None:
    """Evaluate on the test split in QA; predictions to OUT, figures to METRICS."""
    from narrowband.codec.codec import Codec
    from narrowband.codec.pca import PCA
    from narrowband.data.embedded import CALIBRATION_PROMPTS, embedded
    from narrowband.data.prompts import encode_prompt
    from narrowband.data.squad import read_squad
    from narrowband.evaluation.compare import compare, table
    from narrowband.files import write_json
    from narrowband.lm import FrozenLM
    from narrowband.params import load_params

    set_up_torch()
    params = load_params()
    lm = FrozenLM.load(params.base_model)
    fitted = PCA.load(pca).to(lm.device)
    pca_only = Codec(fitted, lm.hidden_size, params, pca_only=True)
    if params.magnitude == "calibrated":
        train = read_squad(qa / "train.json")[:CALIBRATION_PROMPTS]
        prompts = [encode_prompt(lm.tokenizer, e.context, e.question, params.prompt) for e in train]
        pca_only.calibrate(embedded(lm, prompts, params.generation.batch_size))
    systems = {
        "uncompressed": None,
        "pca": pca_only,
        "phase1": Codec.load(phase1, fitted, lm.hidden_size, params),
        "phase2": Codec.load(phase2, fitted, lm.hidden_size, params),
    }
    comparison = compare(lm, systems, read_squad(qa / "test.json"), params, console)
    for name, predictions in comparison.predictions.items():
        write_json(out / f"predictions_{name}.json", predictions)
    write_json(metrics, comparison.metrics)
    console.print(table(comparison.metrics))


if __name__ == "__main__":
    run(main)
