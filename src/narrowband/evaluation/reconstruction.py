"""How close reconstructed embeddings are to the originals, over the coded tokens alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

BY_SEEN = ("cosine", "token_match")
"""Figures of tokens that training saw and of others apart."""


@dataclass
class Quality:
    """Means over tokens, built up batch by batch; with `seen`, the tokens of training, over tokens not among them too."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    seen: Int[Tensor, " known"] | None = None
    unseen_sums: dict[str, float] = field(default_factory=dict)
    unseen_count: int = 0

    @torch.no_grad()
    def add(
        self,
        original: Float[Tensor, "n hidden"],
        reconstructed: Float[Tensor, "n hidden"],
        ids: Int[Tensor, " n"],
        nearest: Int[Tensor, " n"],
        counts: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Take in the coded tokens of a batch with those `nearest` to what became of them, once or as often as `counts` says."""
        error = (reconstructed - original).norm(dim=-1)
        norm = original.norm(dim=-1).clamp(min=1e-12)
        values = {
            "cosine": F.cosine_similarity(original, reconstructed, dim=-1),
            "norm_ratio": reconstructed.norm(dim=-1) / norm,
            "mse": (reconstructed - original).square().mean(-1),
            "relative_error": error / norm,
            "token_match": 100.0 * (nearest == ids.to(original.device)),
        }
        times = torch.ones_like(ids) if counts is None else counts
        weighted = {name: value.double() * times.to(value.device) for name, value in values.items()}
        _add(self.sums, {name: float(value.sum()) for name, value in weighted.items()})
        self.count += int(times.sum())
        if self.seen is not None:
            new = ~torch.isin(ids, self.seen)
            _add(self.unseen_sums, {name: float(weighted[name][new.to(norm.device)].sum()) for name in BY_SEEN})
            self.unseen_count += int(times[new].sum())

    def merge(self, other: "Quality") -> None:
        """Take in what `other` has taken in."""
        _add(self.sums, other.sums)
        self.count += other.count
        _add(self.unseen_sums, other.unseen_sums)
        self.unseen_count += other.unseen_count

    def means(self) -> dict[str, float]:
        """`cosine`, `norm_ratio`, `relative_error` (shares), `mse` (per component), `token_match` (percent)."""
        return {name: total / self.count for name, total in self.sums.items()}

    def by_seen(self) -> dict[str, dict[str, float]]:
        """`cosine` and `token_match` of `seen` and of `unseen` tokens, where there are some; `share` of the unseen ones."""
        new, old = self.unseen_count, self.count - self.unseen_count
        unseen = {name: total / new for name, total in self.unseen_sums.items() if new}
        seen = {name: (self.sums[name] - total) / old for name, total in self.unseen_sums.items() if old}
        return {"seen": seen, "unseen": {"share": new / self.count, **unseen}}


def _add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    for name, total in more.items():
        sums[name] = sums.get(name, 0.0) + total
