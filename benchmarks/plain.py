"""Run a stage with the plain implementation: `python -m benchmarks.plain stages/NAME.py`."""

import runpy
import sys
from collections.abc import Callable
from unittest.mock import patch

from torch import Tensor

from benchmarks import reference
from narrowband.codec.pca import PCA


def fit(vectors: Tensor, compress_dim: int, windows: Tensor, *, advance: Callable[[int], None]) -> PCA:
    """Fit with every window of every prompt in memory at once."""
    return reference.fit_pca(vectors[windows].flatten(1), compress_dim)


def main() -> None:
    """Run the stage on the command line with the plain functions in place of the fast ones."""
    sys.argv = sys.argv[1:]
    with (
        patch("narrowband.codec.pca.PCA.fit", fit),
        patch("narrowband.training.phase1.coded_tokens", reference.coded_tokens),
        patch("narrowband.training.phase2.reconstruct", reference.reconstruct),
        patch("narrowband.evaluation.answer.QuestionAnswerer.answer", reference.answer),
    ):
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
