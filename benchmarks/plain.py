"""Run a stage with the plain implementation: `python -m benchmarks.plain stages/NAME.py`."""

import runpy
import sys
from collections.abc import Sequence
from unittest.mock import patch

from benchmarks import reference
from narrowband.codec.pca import PCA
from narrowband.data.encoded import EncodedPrompt
from narrowband.lm.frozen import FrozenLM


def fit_pca(lm: FrozenLM, prompts: Sequence[EncodedPrompt], compress_dim: int, window: int) -> PCA:
    """Fit with every window of every prompt in memory at once."""
    return reference.fit_pca(reference.all_windows(lm, prompts, window), compress_dim)


def main() -> None:
    """Run the stage on the command line with the plain functions in place of the fast ones."""
    sys.argv = sys.argv[1:]
    with (
        patch("narrowband.codec.fitting.fit_pca", fit_pca),
        patch("narrowband.training.phase1.coded_tokens", reference.coded_tokens),
        patch("narrowband.training.phase2.reconstruct", reference.reconstruct),
        patch("narrowband.evaluation.answer.QuestionAnswerer.answer", reference.answer),
    ):
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
