"""Detectors of frequent tokens: what PCA lost of a token is added where it is recognised. Fitted in closed form, never trained."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

OWN_SCORE = 10.0
"""Score that a token's mean has with its own detector, where 0 is the threshold."""

SHRINKAGE, RIDGE = 1e-3, 1e-4
"""Added to the diagonals of the covariance within tokens and of the normal equations, relative to the mean square and diagonal."""


class Sample(NamedTuple):
    """Tokens, what the detectors read of them, what the PCA lost of them, and the lengths of the originals."""

    ids: Int[Tensor, " n"]
    read: Float[Tensor, "n hidden"]
    lost: Float[Tensor, "n hidden"]
    length: Float[Tensor, "n 1"]


Samples = Callable[[], Iterable[Sample]]
"""Batches of training tokens, the same at each call."""


class Detectors(nn.Module):
    """`A gelu(D x + t) + c`: a detector for each of `width` tokens (D, t), and what is added where detectors fire (A, c).

    Before `fit` it adds nothing.
    """

    directions: Tensor
    thresholds: Tensor
    additions: Tensor
    offset: Tensor

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(width, hidden))
        self.register_buffer("thresholds", torch.zeros(width))
        self.register_buffer("additions", torch.zeros(hidden, width))
        self.register_buffer("offset", torch.zeros(hidden))

    def forward(self, read: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """What to add to the tokens' reconstructions."""
        return F.linear(self._fired(read), self.additions, self.offset)

    @torch.no_grad()
    def fit(self, samples: Samples, tokens: Int[Tensor, " n"]) -> None:
        """Fit to `samples`, with detectors for `tokens`; of more than there are detectors, the first count.

        A detector is the linear discriminant of its token against none at all (Hastie, Tibshirani and Friedman, The Elements of
        Statistical Learning, 4.3): the log-likelihood ratio of two normal distributions with the covariance within tokens, one
        around the token's mean, one around 0. The additions are ridge regression on what was lost, with errors relative to the
        originals' lengths, as in a cosine.
        """
        self._set_detectors(samples(), tokens[: len(self.thresholds)])
        width = len(self.thresholds)
        squares = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=self.offset.device)
        products = torch.zeros(width + 1, len(self.offset), dtype=torch.float64, device=self.offset.device)
        for sample in samples():
            fired = F.pad(self._fired(sample.read), (0, 1), value=1.0) / sample.length
            squares += fired.T @ fired
            products += fired.T @ (sample.lost / sample.length)
        squares.diagonal().add_(RIDGE * squares.diagonal().mean())
        solution = torch.linalg.solve(squares, products)
        self.additions.copy_(solution[:-1].T)
        self.offset.copy_(solution[-1])

    def _set_detectors(self, samples: Iterable[Sample], tokens: Tensor) -> None:
        """Directions and thresholds, from the mean of each token and the covariance of tokens around their means."""
        ordered, order = tokens.sort()
        hidden, device = len(self.offset), self.offset.device
        sums = torch.zeros(len(tokens), hidden, dtype=torch.float64, device=device)
        counts = torch.zeros(len(tokens), 1, dtype=torch.float64, device=device)
        scatter = torch.zeros(hidden, hidden, dtype=torch.float64, device=device)
        for sample in samples:
            places = torch.searchsorted(ordered, sample.ids).clamp(max=len(tokens) - 1)
            known = ordered[places] == sample.ids
            rows, read = order[places[known]], sample.read[known]
            sums.index_add_(0, rows, read.double())
            counts.index_add_(0, rows, torch.ones_like(rows[:, None], dtype=torch.float64))
            scatter += read.T @ read
        means = sums / counts.clamp(min=1)
        within = (scatter - sums.T @ means) / counts.sum()
        within.diagonal().add_(SHRINKAGE * scatter.diagonal().mean() / counts.sum())
        directions = torch.linalg.solve(within, means.T).T
        own = (directions * means).sum(-1, keepdim=True).clamp(min=1e-12) / 2
        self.directions[: len(tokens)] = (OWN_SCORE * directions / own).float()
        self.thresholds[: len(tokens)] = -OWN_SCORE

    def _fired(self, read: Tensor) -> Tensor:
        return F.gelu(F.linear(read, self.directions, self.thresholds))
