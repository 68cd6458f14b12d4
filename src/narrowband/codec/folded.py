"""For codecs that reconstruct each token independently: each distinct token is reconstructed once, then looked up."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.windows import with_tokens
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, coded_counts
from narrowband.lm.frozen import FrozenLM

TOKENS_AT_ONCE = 4096
"""Distinct tokens reconstructed at once."""


class FoldedCodec:
    """A table of `codec` for the coded tokens of `prompts`: `ids` in ascending order, counts, embeddings, reconstructions.

    The table is computed once; training the codec further does not change it.
    """

    @torch.no_grad()
    def __init__(self, codec: Codec, lm: FrozenLM, prompts: Sequence[EncodedPrompt]) -> None:
        self.ids, self.counts = coded_counts(prompts)  # [n], [n]
        self.original = lm.embed(self.ids)  # [n, hidden]
        self.reconstructed = torch.cat(
            [codec.tokens(block) for block in self.original.split(TOKENS_AT_ONCE)]
        )  # [n, hidden]

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], batch: Batch
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` of `batch` with the coded tokens replaced by their reconstruction."""
        return with_tokens(embeddings, batch.coded, self.reconstructed[self.rows(batch)])

    def rows(self, batch: Batch) -> Int[Tensor, " n"]:
        """Index into `ids` of each coded token of `batch`."""
        return torch.searchsorted(self.ids, batch.ids[batch.coded]).to(self.reconstructed.device)


def reconstruct(
    codec: Codec, lm: FrozenLM, embeddings: Float[Tensor, "batch seq hidden"], batch: Batch
) -> Float[Tensor, "batch seq hidden"]:
    """`codec(embeddings, batch.coded)` with gradients; computes each distinct token once if the codec allows it."""
    if not codec.takes_tokens_alone:
        return codec(embeddings, batch.coded)
    ids, rows = batch.ids[batch.coded].unique(return_inverse=True)
    tokens = F.embedding(rows.to(embeddings.device), codec.tokens(lm.embed(ids)))
    return with_tokens(embeddings, batch.coded, tokens)
