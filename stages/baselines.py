"""Put PCA and its adapters beside simpler ways to send embeddings: F1 against bits per token."""

from pathlib import Path

from narrowband.params import load_params
from narrowband.runtime.entry import console, run, set_up_torch


def main(qa: Path, pca: Path, phase1: Path, phase2: Path, metrics: Path) -> None:
    """Evaluate all systems on the first `baselines.questions` test questions in QA; rows of the curve to METRICS."""
    params = load_params()

    from narrowband.codec.pca import PCA
    from narrowband.data.encoded import read_prompts
    from narrowband.data.squad import read_squad
    from narrowband.evaluation.curve import adapters, baselines, curve, table
    from narrowband.lm.frozen import FrozenLM
    from narrowband.runtime.artifacts import checked
    from narrowband.runtime.files import write_json

    set_up_torch()
    lm = FrozenLM.load(params.base_model)
    fitted = PCA.load(pca, params).to(lm.device)
    prompts = read_prompts(lm.tokenizer, checked(qa / "train.json"), params.prompt)
    entries = baselines(lm, fitted, prompts, params) + adapters(lm, fitted, phase1, phase2, params)
    rows = curve(lm, entries, read_squad(checked(qa / "test.json"))[: params.baselines.questions], params, console)
    write_json(metrics, {"rows": rows})
    console.print(table(rows))


if __name__ == "__main__":
    run(main)
