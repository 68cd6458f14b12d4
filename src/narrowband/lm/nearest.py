"""The vocabulary entry nearest to an embedding by cosine, in bounded memory however large the vocabulary is."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

MOST = 1 << 24
"""Numbers that a step of a search holds at a time: 64 MiB of cosines."""

ROWS = 4096
"""Embeddings looked up at a time, at the most."""

KEPT = 64
"""Directions of the vocabulary in which cosines are bounded before they are computed."""

WORTH_BOUNDING = 1 << 22
"""Numbers in a vocabulary from which on bounds save time."""

CANDIDATES = 4096
"""Entries that may be left for one embedding after bounding; where there are more, it is compared with all."""

MARGIN = 1e-5
"""What a cosine and its bound may be off, both in float32."""


class NearestTokens:
    """A search for the entry of highest cosine, of equal ones that of the lowest id. Entries are normalised once.

    In a large vocabulary most entries are ruled out by less than their cosine: of a unit vector's first `KEPT` principal
    components p and the length r of what is left, `p.p' + r r'` is an upper bound (Cauchy-Schwarz). What is found is that
    of a search without bounds.
    """

    def __init__(self, vocabulary: Float[Tensor, "vocab hidden"]) -> None:
        self.unit = F.normalize(vocabulary, dim=-1)
        self.directions: Tensor | None = None
        if vocabulary.numel() >= WORTH_BOUNDING and vocabulary.shape[1] > 4 * KEPT:
            self.directions = _principal(self.unit)  # [hidden, kept]
            self.bounds = self._projected(self.unit, self.directions)  # [vocab, kept + 1]
        self.rows = max(1, min(ROWS, MOST // len(vocabulary)))

    def __call__(self, embeddings: Float[Tensor, "n hidden"]) -> Int[Tensor, " n"]:
        """The entry nearest to each embedding."""
        search = self._all if self.directions is None else self._bounded
        return torch.cat([search(F.normalize(block, dim=-1)) for block in embeddings.split(self.rows)])

    def _all(self, units: Float[Tensor, "n hidden"]) -> Int[Tensor, " n"]:
        return (units @ self.unit.T).argmax(-1)

    def _bounded(self, units: Float[Tensor, "n hidden"]) -> Int[Tensor, " n"]:
        assert self.directions is not None
        bounds = self._projected(units, self.directions) @ self.bounds.T  # [n, vocab]
        guess = bounds.argmax(-1)
        least = (units * self.unit[guess]).sum(-1, keepdim=True) - MARGIN
        possible = bounds >= least
        counts = possible.sum(-1)
        few = (counts > 0) & (counts <= CANDIDATES)  # none are left of what is not a number
        nearest = guess.clone()
        if not few.all():
            nearest[~few] = self._all(units[~few])
        places = few.nonzero()[:, 0]
        for some in _grouped(places, counts[places], MOST // units.shape[1]):
            nearest[some] = self._among(units[some], possible[some])
        return nearest

    def _among(self, units: Float[Tensor, "n hidden"], possible: Tensor) -> Int[Tensor, " n"]:
        """The nearest of the entries that are `possible` [n, vocab] for each of `units`, at least one for each."""
        rows, ids = possible.nonzero(as_tuple=True)
        cosines = (units[rows] * self.unit[ids]).sum(-1)
        best = cosines.new_full((len(units),), -torch.inf).scatter_reduce(0, rows, cosines, "amax")
        highest = cosines == best[rows]
        first = ids.new_full((len(units),), len(self.unit))
        return first.scatter_reduce(0, rows[highest], ids[highest], "amin")

    @staticmethod
    def _projected(units: Tensor, directions: Tensor) -> Tensor:
        """Components of unit vectors in `directions`, and the length of what is left of them; [n, kept + 1]."""
        components = units @ directions
        rest = units.square().sum(-1, keepdim=True) - components.square().sum(-1, keepdim=True)
        return torch.cat([components, rest.clamp(min=0).sqrt()], -1)


def _principal(units: Float[Tensor, "vocab hidden"]) -> Float[Tensor, "hidden kept"]:
    """The directions that hold most of a sample of `units`, about the origin."""
    sample = units[:: max(1, len(units) // (8 * units.shape[1]))]
    return torch.linalg.eigh(sample.T @ sample).eigenvectors[:, -KEPT:]


def _grouped(places: Tensor, counts: Tensor, most: int) -> list[Tensor]:
    """`places` in groups whose `counts` add up to about `most` at the most."""
    group = (counts.cumsum(0) - counts) // most
    return [places[group == i] for i in group.unique()]
