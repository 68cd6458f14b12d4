"""How close reconstructed embeddings, or states after a block, are to the originals, over the coded tokens alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TABLE_FIGURES = ("cosine", "norm_ratio", "token_match")
"""Figures that tables and `metrics/evaluate.json` have; of states after a block there is no `token_match`."""

BY_SEEN = ("cosine", "token_match")
"""Figures that are also reported separately for seen and unseen tokens."""


@dataclass
class Quality:
    """Means over tokens, accumulated batch by batch; with `seen`, the ids coded in training, also over other tokens."""

    seen: Int[Tensor, " known"] | None = None
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    unseen_sums: dict[str, float] = field(default_factory=dict)
    unseen_counts: dict[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of tokens added."""
        return int(self.counts.get("cosine", 0))

    @torch.no_grad()
    def add(
        self,
        original: Float[Tensor, "n hidden"],
        reconstructed: Float[Tensor, "n hidden"],
        ids: Int[Tensor, " n"],
        counts: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Add the coded tokens of a batch, each once or `counts` times."""
        error = (reconstructed - original).norm(dim=-1)
        norm = original.norm(dim=-1).clamp(min=1e-12)
        self._take("cosine", F.cosine_similarity(original, reconstructed, dim=-1), ids, counts)
        self._take("norm_ratio", reconstructed.norm(dim=-1) / norm, ids, counts)
        self._take("mse", (reconstructed - original).square().mean(-1), ids, counts)
        self._take("relative_error", error / norm, ids, counts)

    def match(
        self, nearest: Int[Tensor, " n"], ids: Int[Tensor, " n"], counts: Int[Tensor, " n"] | None = None
    ) -> None:
        """Add to `token_match` coded tokens, some or all, whose reconstructions have the vocabulary tokens `nearest`.

        States have none: those of a token are as many as its contexts, and none is in a table.
        """
        self._take("token_match", 100.0 * (nearest == ids.to(nearest.device)), ids, counts)

    def _take(
        self, name: str, values: Float[Tensor, " n"], ids: Int[Tensor, " n"], counts: Int[Tensor, " n"] | None
    ) -> None:
        times = torch.ones_like(ids) if counts is None else counts
        weighted = values.double() * times.to(values.device)
        _add(self.sums, {name: float(weighted.sum())})
        _add(self.counts, {name: int(times.sum())})
        if self.seen is not None and name in BY_SEEN:
            new = ~torch.isin(ids, self.seen)
            _add(self.unseen_sums, {name: float(weighted[new.to(values.device)].sum())})
            _add(self.unseen_counts, {name: int(times[new].sum())})

    def merge(self, other: "Quality") -> None:
        """Add all that was added to `other`."""
        _add(self.sums, other.sums)
        _add(self.counts, other.counts)
        _add(self.unseen_sums, other.unseen_sums)
        _add(self.unseen_counts, other.unseen_counts)

    def means(self) -> dict[str, float]:
        """`cosine`, `norm_ratio`, `relative_error` (shares), `mse` (per component), `token_match` (percent)."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def by_seen(self) -> dict[str, dict[str, float]]:
        """`cosine` and `token_match` of `seen` and of `unseen` tokens, if there are any; `share` of unseen tokens."""
        unseen = {
            name: total / self.unseen_counts[name]
            for name, total in self.unseen_sums.items()
            if self.unseen_counts[name]
        }
        seen = {
            name: (self.sums[name] - total) / (self.counts[name] - self.unseen_counts[name])
            for name, total in self.unseen_sums.items()
            if self.counts[name] > self.unseen_counts[name]
        }
        return {"seen": seen, "unseen": {"share": self.unseen_counts.get("cosine", 0) / self.count, **unseen}}


def _add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    for name, total in more.items():
        sums[name] = sums.get(name, 0.0) + total
