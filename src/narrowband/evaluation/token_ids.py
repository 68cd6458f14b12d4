"""Token ids instead of embeddings: lossless, because static embeddings are a lookup. The cost depends on the predictor.

Each system here has the cost of text itself, which is the bar for any system that sends embeddings of text.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.bitstream import STREAM_BITS
from narrowband.codec.windows import with_tokens
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.nearest import NearestTokens

PSEUDOCOUNT = 0.5
"""Added to each count (Krichevsky and Trofimov, IEEE Transactions on Information Theory 27(2), 1981)."""


def code_lengths(counts: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Bits of each symbol under the smoothed frequencies of training data."""
    weights = counts.double() + PSEUDOCOUNT
    return weights.sum().log2() - weights.log2()


def stream_bits(ideal: float, coded: Bool[Tensor, "batch seq"]) -> int:
    """Bits of a batch of streams: the ideal code length, and the overhead of one stream per prompt."""
    return math.ceil(ideal) + STREAM_BITS * int(coded.any(-1).sum())


@dataclass(frozen=True)
class TokenId:
    """The id of each token, in ceil(log2 V) bits."""

    nearest: NearestTokens

    @property
    def depth(self) -> int:
        """Bits of one token id."""
        return math.ceil(math.log2(len(self.nearest.vocabulary)))

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens looked up again."""
        coded = coded.to(embeddings.device)
        return with_tokens(embeddings, coded, self.nearest.vocabulary[self.ids(embeddings[coded])])

    def ids(self, tokens: Float[Tensor, "n hidden"]) -> Int[Tensor, " n"]:
        """The token ids that are sent for embeddings."""
        return self.nearest(tokens)

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        return int(coded.sum()) * self.depth


@dataclass(frozen=True)
class UnigramTokenId(TokenId):
    """Token ids, entropy-coded under the training text's unigram model: `lengths` bits each."""

    lengths: Float[Tensor, " vocab"]

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        ids = self.ids(embeddings[coded.to(embeddings.device)])
        return stream_bits(float(self.lengths[ids.cpu()].sum()), coded)


@dataclass(frozen=True)
class PredictedTokenId(TokenId):
    """Token ids, entropy-coded under the base model's own next-token probabilities: the length is its cross-entropy.

    Deletang et al., Language modeling is compression (arXiv:2309.10668). Both sides run the model over `before` (the tokens
    before every prompt) and over the tokens sent so far. A first token with nothing before it costs log2 V bits. A real coder
    would need the same logits on both sides to the last bit; this is its ideal length.
    """

    lm: FrozenLM
    before: tuple[int, ...]

    @torch.no_grad()
    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        coded = coded.to(embeddings.device)
        rows = [self.ids(row[on]) for row, on in zip(embeddings, coded, strict=True) if on.any()]
        return stream_bits(sum(map(self.cross_entropy, rows)), coded)

    def cross_entropy(self, ids: Int[Tensor, " n"]) -> float:
        """Bits of the tokens of one prompt."""
        known = torch.cat([torch.tensor(self.before, dtype=torch.long, device=ids.device), ids])
        predicted = known[max(1, len(self.before)) :]
        embeddings = self.lm.embed(known)[None]
        mask = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        logits = self.lm.logits(embeddings, mask, len(predicted) + 1)[0, :-1]  # [predicted, vocab]
        nats = torch.nn.functional.cross_entropy(logits, predicted.to(logits.device), reduction="sum")
        unpredicted = len(ids) - len(predicted)
        return float(nats) / math.log(2) + unpredicted * math.log2(len(self.nearest.vocabulary))
