"""Say what is wrong with a run and what to try next; write the report."""

import json
from pathlib import Path

from narrowband.stage import console, run, set_up_torch


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
    from narrowband.data.squad import read_squad
    from narrowband.evaluation.diagnosis import diagnose, histogram
    from narrowband.evaluation.systems import load_systems
    from narrowband.evaluation.verdicts import summary, verdicts
    from narrowband.files import write_json, write_text
    from narrowband.lm import FrozenLM
    from narrowband.params import load_params
    from narrowband.report.examples import first_examples
    from narrowband.report.page import read_evaluations, render

    set_up_torch()
    params = load_params()
    lm = FrozenLM.load(params.base_model)
    systems = load_systems(lm, qa, pca, phase1, phase2, params)
    examples = read_squad(qa / "test.json")
    answers = {name: json.loads((predictions / f"predictions_{name}.json").read_text()) for name in systems}
    diagnosis = diagnose(lm, systems, examples, answers, params)
    found = verdicts(diagnosis, params, lm.hidden_size)
    figures, norms = summary(diagnosis, found), histogram(diagnosis.norms)
    shown = first_examples(lm, systems, examples, answers, params)
    evaluations = {phase: read_evaluations(log / phase / "evaluations.csv") for phase in ("phase1", "phase2")}
    rows = json.loads(baselines.read_text())["rows"]
    write_json(metrics, figures)
    write_json(report / "examples.json", shown)
    write_json(report / "norms.json", norms)
    page = render(params, json.loads(evaluation.read_text()), figures, norms, evaluations, shown, rows)
    write_text(report / "index.html", page)
    for system, verdict in ((system, verdict) for system, listed in found.items() for verdict in listed):
        console.print(
            f"{system}: [bold]{verdict.name}[/] ({verdict.confidence} confidence): {verdict.evidence}", highlight=False
        )
        console.print(f"  next: {verdict.command}", highlight=False)


if __name__ == "__main__":
    run(main)
