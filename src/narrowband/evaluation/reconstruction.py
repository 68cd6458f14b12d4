"""How close reconstructed embeddings, or states after a block, are to the originals, over the coded tokens alone."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TABLE_FIGURES = ("cosine", "norm_ratio", "token_match")
"""Figures that tables and `metrics/evaluate.json` have; of states after a block there is no `token_match`."""

BY_SEEN = ("cosine", "token_match")
"""Figures that are also reported separately for seen and unseen tokens."""


class Sums(NamedTuple):
    """Sum of a figure over tokens, and their number; then the same over the unseen ones among them."""

    total: float = 0.0
    tokens: float = 0.0
    unseen_total: float = 0.0
    unseen_tokens: float = 0.0


@dataclass
class Quality:
    """Means over tokens, accumulated batch by batch; with `seen`, the ids coded in training, also over other tokens."""

    seen: Int[Tensor, " known"] | None = None
    sums: dict[str, Sums] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of tokens added."""
        return int(self.sums.get("cosine", Sums()).tokens)

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
        found = Sums(float(weighted.sum()), int(times.sum()))
        if self.seen is not None and name in BY_SEEN:
            new = ~torch.isin(ids, self.seen)
            unseen = float(weighted[new.to(values.device)].sum())
            found = found._replace(unseen_total=unseen, unseen_tokens=int(times[new].sum()))
        self._add(name, found)

    def merge(self, other: "Quality") -> None:
        """Add all that was added to `other`."""
        for name, sums in other.sums.items():
            self._add(name, sums)

    def _add(self, name: str, more: Sums) -> None:
        self.sums[name] = Sums(*(a + b for a, b in zip(self.sums.get(name, Sums()), more, strict=True)))

    def means(self) -> dict[str, float]:
        """`cosine`, `norm_ratio`, `relative_error` (shares), `mse` (per component), `token_match` (percent)."""
        return {name: sums.total / sums.tokens for name, sums in self.sums.items()}

    def by_seen(self) -> dict[str, dict[str, float]]:
        """`cosine` and `token_match` of `seen` and of `unseen` tokens, if there are any; `share` of unseen tokens."""
        split = {name: sums for name, sums in self.sums.items() if name in BY_SEEN}
        unseen = {name: s.unseen_total / s.unseen_tokens for name, s in split.items() if s.unseen_tokens}
        seen = {
            name: (s.total - s.unseen_total) / (s.tokens - s.unseen_tokens)
            for name, s in split.items()
            if s.tokens > s.unseen_tokens
        }
        return {"seen": seen, "unseen": {"share": split["cosine"].unseen_tokens / self.count, **unseen}}
