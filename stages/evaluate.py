"""Answer the test questions with every system, by free-running generation, and score them."""

from pathlib import Path

from narrowband.params import load_params
from narrowband.runtime.entry import console, run, set_up_torch


def main(qa: Path, pca: Path, phase1: Path, phase2: Path, out: Path, metrics: Path) -> None:
    """Evaluate on the test split in QA; predictions to OUT, figures to METRICS."""
    params = load_params()

    from narrowband.data.squad import read_squad
    from narrowband.evaluation.compare import compare
    from narrowband.evaluation.headline import table
    from narrowband.evaluation.systems import evaluated, load_systems
    from narrowband.lm.frozen import FrozenLM
    from narrowband.runtime import distributed
    from narrowband.runtime.artifacts import checked, write_config
    from narrowband.runtime.files import write_json

    set_up_torch()
    lm = FrozenLM.load(params.base_model)
    systems = load_systems(lm, qa, pca, phase1, phase2, params)
    questions = checked(qa / "test.json")
    comparison = compare(lm, systems, read_squad(questions), params, console)
    if not distributed.is_main():
        return
    for name, predictions in comparison.predictions.items():
        write_json(out / f"predictions_{name}.json", predictions)
    write_config(out, evaluated(params, questions, pca, phase1, phase2))
    write_json(metrics, comparison.metrics)
    console.print(table(comparison.metrics))


if __name__ == "__main__":
    run(main)
