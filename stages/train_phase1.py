"""Phase 1: train the adapter to reconstruct prompt embeddings."""

from pathlib import Path

from narrowband.params import load_params
from narrowband.runtime.entry import run, set_up_torch


def main(qa: Path, pca: Path, out: Path, metrics: Path, log: Path) -> None:
    """Train on the questions in QA with the PCA in PCA; adapter to OUT, figures to METRICS, step log to LOG."""
    params = load_params()

    from narrowband.training.run import train_phase

    set_up_torch()
    train_phase("phase1", params, qa, pca, None, out, metrics, log)


if __name__ == "__main__":
    run(main, needs_less_memory="set phase1.micro_batch to fewer prompts, or lower generation.batch_size")
