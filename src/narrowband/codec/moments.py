"""Mean and covariance of vectors of any number, taken in by batches."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Moments:
    """Sums over vectors in float64, whatever their number; products are taken in the vectors' own precision.

    Products of centred vectors lose no digits to a large mean, and the mean of the first batch is near enough.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift = self._total = self._gram = torch.empty(0)

    def add(self, vectors: Float[Tensor, "n vector"], counts: Int[Tensor, " n"] | None = None) -> None:
        """Take in `vectors`, each once or as often as `counts` says."""
        if not len(self._shift):
            self._shift = vectors.mean(0)
            self._total = torch.zeros(vectors.shape[1], dtype=torch.float64)
            self._gram = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
        scaled = vectors - self._shift
        if counts is None:
            self.count += len(vectors)
            self._total += scaled.sum(0).double().cpu()
        else:
            self.count += int(counts.sum())
            self._total += (counts[:, None] * scaled).sum(0).double().cpu()
            scaled = counts[:, None].sqrt() * scaled
        self._gram += (scaled.T @ scaled).double().cpu()

    def mean(self) -> Float[Tensor, " vector"]:
        """Their mean."""
        return self._shift.double().cpu() + self._total / self.count

    def covariance(self) -> Float[Tensor, "vector vector"]:
        """Their covariance, with n - 1 below."""
        offset = self._total / self.count
        return (self._gram - self.count * torch.outer(offset, offset)) / (self.count - 1)
