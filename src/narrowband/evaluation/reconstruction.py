"""How close reconstructed embeddings, or states after a block, are to the originals, over the coded tokens alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

HEADLINE = ("cosine", "norm_ratio", "token_match")
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
        nearest: Int[Tensor, " searched"] | None,
        counts: Int[Tensor, " n"] | None = None,
        *,
        every: int = 1,
    ) -> None:
        """Add the coded tokens of a batch, each once or `counts` times.

        `nearest` are the vocabulary tokens nearest to the reconstructions, or to every `every`-th of them, from the first on;
        without them there is no `token_match`: the states of a token are as many as its contexts, and none is in a table.
        """
        times = torch.ones_like(ids) if counts is None else counts
        error = (reconstructed - original).norm(dim=-1)
        norm = original.norm(dim=-1).clamp(min=1e-12)
        self._take("cosine", F.cosine_similarity(original, reconstructed, dim=-1), ids, times)
        self._take("norm_ratio", reconstructed.norm(dim=-1) / norm, ids, times)
        self._take("mse", (reconstructed - original).square().mean(-1), ids, times)
        self._take("relative_error", error / norm, ids, times)
        if nearest is not None:
            match = 100.0 * (nearest == ids[::every].to(nearest.device))
            self._take("token_match", match, ids[::every], times[::every])

    def _take(self, name: str, values: Float[Tensor, " n"], ids: Int[Tensor, " n"], times: Int[Tensor, " n"]) -> None:
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
