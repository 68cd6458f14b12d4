"""Phase 2: train the adapter through the frozen language model, from the Phase 1 adapter on or from scratch."""

from pathlib import Path

from narrowband.params import load_params
from narrowband.runtime.entry import run, set_up_torch


def main(qa: Path, pca: Path, phase1: Path, out: Path, metrics: Path, log: Path, sft: Path) -> None:
    """Train on the questions in QA and the records in SFT, from the adapter in PHASE1 unless `phase2.start` says otherwise.

    The adapter goes to OUT, figures to METRICS, the step log to LOG.
    """
    params = load_params()

    from narrowband.training.run import train_phase

    set_up_torch()
    start = phase1 if params.phase2.start == "phase1" else None
    train_phase("phase2", params, qa, pca, start, out, metrics, log, sft)


if __name__ == "__main__":
    run(
        main,
        needs_less_memory="set phase2.micro_batch to fewer prompts or phase2.gradient_checkpointing to true, "
        "or lower generation.batch_size",
    )
