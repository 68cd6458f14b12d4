"""Say what is wrong with a run and what to try next; write the report."""

from pathlib import Path

from narrowband.params import load_params
from narrowband.runtime.entry import console, run, set_up_torch


def main(
    qa: Path,
    pca: Path,
    phase1: Path,
    phase2: Path,
    predictions: Path,
    evaluation: Path,
    baselines: Path,
    log: Path,
    metrics: Path,
    report: Path,
) -> None:
    """Diagnose the run in PREDICTIONS, EVALUATION and BASELINES; figures to METRICS, page and plots to REPORT."""
    params = load_params()

    from narrowband.data.squad import read_squad
    from narrowband.diagnosis.figures import diagnose, histogram
    from narrowband.diagnosis.verdicts import summary, verdicts
    from narrowband.evaluation.systems import evaluated, load_systems
    from narrowband.lm.frozen import FrozenLM
    from narrowband.report.examples import first_examples
    from narrowband.report.page import read_evaluations, render
    from narrowband.runtime.artifacts import checked, read_config
    from narrowband.runtime.files import read_json, write_json, write_text

    set_up_torch()
    lm = FrozenLM.load(params.base_model)
    systems = load_systems(lm, qa, pca, phase1, phase2, params)
    questions = checked(qa / "test.json")
    examples = read_squad(questions)
    read_config(predictions, evaluated(params, questions, pca, phase1, phase2))
    answers = {name: read_json(checked(predictions / f"predictions_{name}.json")) for name in systems}
    scores, rows = read_json(evaluation), read_json(baselines)["rows"]
    evaluations = {phase: read_evaluations(log / phase / "evaluations.csv") for phase in ("phase1", "phase2")}
    diagnosis = diagnose(lm, systems, examples, answers, params)
    found = verdicts(diagnosis, params, lm.hidden_size)
    figures, norms = summary(diagnosis, found), histogram(diagnosis.norms)
    shown = first_examples(lm, systems, examples, answers, params)
    write_json(metrics, figures)
    write_json(report / "examples.json", shown)
    write_json(report / "norms.json", norms)
    page = render(params, scores, figures, norms, evaluations, shown, rows)
    write_text(report / "index.html", page)
    for system, verdict in ((system, verdict) for system, listed in found.items() for verdict in listed):
        console.print(
            f"{system}: [bold]{verdict.name}[/] ({verdict.confidence} confidence): {verdict.evidence}", highlight=False
        )
        console.print(f"  next: {verdict.command}", highlight=False)


if __name__ == "__main__":
    run(main)
