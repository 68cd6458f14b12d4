"""How close reconstructed embeddings are to the originals, over the coded tokens alone."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 4096


def nearest_tokens(
    embeddings: Float[Tensor, "n hidden"], vocabulary: Float[Tensor, "vocab hidden"]
) -> Int[Tensor, " n"]:
    """The vocabulary entry with the highest cosine to each embedding."""
    unit = F.normalize(vocabulary, dim=-1)
    return torch.cat([(F.normalize(block, dim=-1) @ unit.T).argmax(-1) for block in embeddings.split(BLOCK)])


@dataclass
class Quality:
    """Means over tokens, built up batch by batch."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    @torch.no_grad()
    def add(
        self,
        original: Float[Tensor, "n hidden"],
        reconstructed: Float[Tensor, "n hidden"],
        ids: Int[Tensor, " n"],
        vocabulary: Float[Tensor, "vocab hidden"],
        counts: Int[Tensor, " n"] | None = None,
    ) -> Int[Tensor, " n"]:
        """Take in the coded tokens of a batch, each once or as often as `counts` says; returns the nearest token of each."""
        error = (reconstructed - original).norm(dim=-1)
        norm = original.norm(dim=-1).clamp(min=1e-12)
        nearest = nearest_tokens(reconstructed, vocabulary)
        values = {
            "cosine": F.cosine_similarity(original, reconstructed, dim=-1),
            "norm_ratio": reconstructed.norm(dim=-1) / norm,
            "mse": (reconstructed - original).square().mean(-1),
            "relative_error": error / norm,
            "token_match": 100.0 * (nearest == ids.to(original.device)),
        }
        for name, value in values.items():
            value = value.double() if counts is None else value.double() * counts.to(value.device)
            self.sums[name] = self.sums.get(name, 0.0) + float(value.sum())
        self.count += len(ids) if counts is None else int(counts.sum())
        return nearest

    def merge(self, other: "Quality") -> None:
        """Take in what `other` has taken in."""
        for name, total in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.count += other.count

    def means(self) -> dict[str, float]:
        """`cosine`, `norm_ratio`, `relative_error` (shares), `mse` (per component), `token_match` (percent)."""
        return {name: total / self.count for name, total in self.sums.items()}
