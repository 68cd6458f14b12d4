"""Detectors of frequent tokens: what PCA lost of a token is added where it is recognised. Fitted in closed form, never trained."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

OWN_SCORE = 10.0
"""Score that a token's mean has with its own detector, where 0 is the threshold."""

SHRINKAGE = 1e-3
"""Added to the variances within tokens, as a share of the mean square of all inputs."""

RIDGE = 1e-4
"""Added to the diagonal of the normal equations, as a share of its mean."""

SHORTEST = 0.1
"""Lengths below this share of the usual one count as this: a token of length 0 would outweigh all others."""


class Sample(NamedTuple):
    """Tokens, what the detectors read of them, what PCA lost of them, and the originals' RMS, both in units of the usual RMS."""

    ids: Int[Tensor, " n"]
    inputs: Float[Tensor, "n hidden"]
    lost: Float[Tensor, "n hidden"]
    rms: Float[Tensor, "n 1"]


Samples = Callable[[], Iterable[Sample]]
"""Batches of training tokens, the same at each call."""


class Detectors(nn.Module):
    """`A gelu(D x + b) + c`: a detector for each of `count` tokens (D, b), what is added where it fires (A), and everywhere (c).

    Before `fit` nothing is added.
    """

    directions: Tensor
    biases: Tensor
    additions: Tensor
    offset: Tensor

    def __init__(self, hidden: int, count: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(count, hidden))
        self.register_buffer("biases", torch.zeros(count))
        self.register_buffer("additions", torch.zeros(hidden, count))
        self.register_buffer("offset", torch.zeros(hidden))

    def __len__(self) -> int:
        return len(self.biases)

    def forward(self, inputs: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """What to add to the tokens' reconstructions."""
        return F.linear(self._fired(inputs), self.additions, self.offset)

    @torch.no_grad()
    def fit(self, samples: Samples, tokens: Int[Tensor, " n"]) -> None:
        """Fit to `samples`, with detectors for the first `count` of `tokens`.

        A detector is the linear discriminant (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 4.3) between
        two normal distributions with the covariance within tokens, one around its token's mean, one around the mean of all,
        scaled so that the token's mean scores `OWN_SCORE`. The additions are ridge regression on what was lost, with errors
        relative to the originals' lengths, as in a cosine.
        """
        self._set_detectors(samples(), tokens[: len(self)])
        size, device = len(self) + 1, self.offset.device
        squares = torch.zeros(size, size, dtype=torch.float64, device=device)
        products = torch.zeros(size, len(self.offset), dtype=torch.float64, device=device)
        for sample in samples():
            weights = 1 / sample.rms.clamp(min=SHORTEST)
            fired = weights * F.pad(self._fired(sample.inputs), (0, 1), value=1.0)
            squares += fired.T @ fired
            products += fired.T @ (weights * sample.lost)
        squares.diagonal().add_(RIDGE * squares.diagonal().mean())
        solution = torch.linalg.solve(squares, products)
        self.additions.copy_(solution[:-1].T)
        self.offset.copy_(solution[-1])

    def _set_detectors(self, samples: Iterable[Sample], tokens: Tensor) -> None:
        """Directions and biases, from the mean of each token and the covariance of tokens around their means."""
        self.directions.zero_()
        self.biases.zero_()
        ordered, order = tokens.sort()
        hidden, device = len(self.offset), self.offset.device
        sums = torch.zeros(len(tokens), hidden, dtype=torch.float64, device=device)
        counts = torch.zeros(len(tokens), 1, dtype=torch.float64, device=device)
        scatter = torch.zeros(hidden, hidden, dtype=torch.float64, device=device)
        for sample in samples:
            places = torch.searchsorted(ordered, sample.ids).clamp(max=len(tokens) - 1)
            known = ordered[places] == sample.ids
            rows, inputs = order[places[known]], sample.inputs[known]
            sums.index_add_(0, rows, inputs.double())
            counts.index_add_(0, rows, torch.ones_like(rows[:, None], dtype=torch.float64))
            scatter += inputs.T @ inputs
        means = sums / counts.clamp(min=1)
        within = (scatter - sums.T @ means) / counts.sum()
        within.diagonal().add_(SHRINKAGE * scatter.diagonal().mean() / counts.sum())
        middle = sums.sum(0) / counts.sum()
        directions = torch.linalg.solve(within, (means - middle).T).T
        own = (directions * (means - middle)).sum(-1, keepdim=True).clamp(min=1e-12) / 2
        directions *= OWN_SCORE / own
        self.directions[: len(tokens)] = directions
        self.biases[: len(tokens)] = -OWN_SCORE - directions @ middle

    def _fired(self, inputs: Tensor) -> Tensor:
        return F.gelu(F.linear(inputs, self.directions, self.biases))
