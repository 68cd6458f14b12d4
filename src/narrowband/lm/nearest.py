"""The vocabulary entry nearest to an embedding by cosine, in bounded memory however large the vocabulary is."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

MOST = 1 << 24
"""Maximum number of cosines in memory: 64 MiB."""

ROWS, COLUMNS = 4096, 1 << 15
"""Maximum number of embeddings and of vocabulary entries compared at a time."""


class NearestTokens:
    """Finds the entry of `vocabulary` with the highest cosine; ties go to the lowest id. Entries are normalised once."""

    def __init__(self, vocabulary: Float[Tensor, "vocab hidden"]) -> None:
        self.vocabulary = vocabulary
        self.unit = F.normalize(vocabulary, dim=-1)

    def __call__(self, embeddings: Float[Tensor, "n hidden"]) -> Int[Tensor, " n"]:
        """The entry nearest to each embedding; 0 for an embedding with NaN."""
        rows = max(1, min(ROWS, MOST // min(COLUMNS, len(self.unit))))
        return torch.cat([self._search(F.normalize(block, dim=-1)) for block in embeddings.split(rows)])

    def _search(self, units: Float[Tensor, "n hidden"]) -> Int[Tensor, " n"]:
        best = units.new_full((len(units),), -torch.inf)
        nearest = torch.zeros(len(units), dtype=torch.long, device=units.device)
        for start in range(0, len(self.unit), COLUMNS):
            highest, place = (units @ self.unit[start : start + COLUMNS].T).max(-1)
            higher = highest > best  # not where it is equal, so that the lowest id stays
            nearest = torch.where(higher, place + start, nearest)
            best = torch.where(higher, highest, best)
        return nearest
