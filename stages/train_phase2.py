"""Phase 2: train the adapter through the frozen language model, from the Phase 1 adapter on."""

from pathlib import Path

from narrowband.stage import run, set_up_torch


def main(qa: Path, pca: Path, phase1: Path, out: Path, metrics: Path, log: Path, sft: Path) -> None:
    """Train on the questions in QA, and on records in SFT, from the adapter in PHASE1.

    The adapter goes to OUT, figures to METRICS, the step log to LOG.
    """
    from narrowband.phases import train_phase

    set_up_torch()
    train_phase("phase2", qa, pca, phase1, out, metrics, log, sft)


if __name__ == "__main__":
    run(main)
