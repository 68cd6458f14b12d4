"""The teacher's distribution in compact form: log-probabilities of its top tokens, and of all others together."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TopK(NamedTuple):
    """A distribution over the vocabulary at each of n positions: its top k tokens, with all others merged into one."""

    tokens: Int[Tensor, "n k"]
    log_probabilities: Float[Tensor, "n k+1"]
    """Of `tokens`, then of all others together."""

    @classmethod
    def of(cls, logits: Float[Tensor, "n vocab"], k: int) -> "TopK":
        """The top `k` tokens of `logits`; `k` is less than the vocabulary, so that there are others."""
        tokens = logits.topk(k).indices
        return cls(tokens, merge_others(logits, tokens))

    @classmethod
    def cat(cls, parts: Iterable["TopK"]) -> "TopK":
        """The positions of all `parts`, one after the other."""
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def split(self, size: int) -> list["TopK"]:
        """The positions in parts of `size`, the last one possibly smaller."""
        return [TopK(*part) for part in zip(*(tensor.split(size) for tensor in self), strict=True)]

    def to(self, device: torch.device) -> "TopK":
        """The same on `device`."""
        return TopK(*(tensor.to(device) for tensor in self))


def merge_others(logits: Float[Tensor, "n vocab"], tokens: Int[Tensor, "n k"]) -> Float[Tensor, "n k+1"]:
    """Log-probabilities of `tokens` and, last, of all other tokens together.

    The KL of two distributions so merged is at most that of the distributions themselves (the log sum inequality, Cover
    and Thomas 2006, theorem 2.7.1), and equal to it if there is only one other token.
    """
    others = logits.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, tokens), others], -1) - logits.logsumexp(-1, keepdim=True)
