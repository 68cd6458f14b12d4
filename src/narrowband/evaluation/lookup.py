"""A decoder that knows the embedding table: it decodes latents to the tokens that fit them best."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.windows import cut, join, token_places
from narrowband.evaluation.token_ids import code_lengths
from narrowband.lm.nearest import NearestTokens

MOST_SWEEPS = 10
DECODED_AT_ONCE = 256
"""Windows decoded at once."""

LEAST_NOISE = 1e-6
"""Minimum noise variance of a latent, as a share of the mean variance of a component."""


@dataclass(frozen=True)
class Lookup:
    """Decodes the latents of a PCA `codec` without adapter to the vocabulary entries that fit them best.

    At window 1 this is the entry whose quantised latents are nearest; ties go to the entry that is most frequent in training
    text. Decoding is lossless if quantised latents differ for all entries.

    In a longer window, the contributions of its tokens to the latents add up. Decoding starts from the entries nearest to PCA's
    reconstruction (by cosine) and sets each token in turn to the most likely one given all others, until none changes (Besag's
    iterated conditional modes, Journal of the Royal Statistical Society B 48(3), 1986), under the `prior` of training text. A
    received latent is modelled as `gain` times the latent (0 if it is always rounded to zero) plus Gaussian noise of variance 1
    / `precision`.
    """

    codec: Codec
    nearest: NearestTokens
    prior: Float[Tensor, " vocab"]
    """Natural logarithms."""
    gain: Float[Tensor, " compress"]
    precision: Float[Tensor, " compress"]

    @classmethod
    def fit(
        cls,
        codec: Codec,
        nearest: NearestTokens,
        counts: Int[Tensor, " vocab"],
        windows: Float[Tensor, "n vector"],
    ) -> Self:
        """`counts` are those of each entry in training text; gain and noise are measured on training `windows`."""
        latents, received = codec.pca.encode(windows), codec.received(windows)
        gain = (latents * received).mean(0) / latents.square().mean(0).clamp(min=1e-12)
        least = LEAST_NOISE * float(codec.pca.total_variance) / len(codec.pca.mean)
        noise = (received - gain * latents).square().mean(0).clamp(min=least)
        return cls(codec, nearest, -code_lengths(counts).to(nearest.vocabulary) * math.log(2), gain, 1 / noise)

    @property
    def vocabulary(self) -> Float[Tensor, "vocab hidden"]:
        """The embedding table."""
        return self.nearest.vocabulary

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by vocabulary entries."""
        coded, window = coded.to(embeddings.device), self.codec.window
        latents = self.codec.received(cut(embeddings, coded, window))
        if window == 1:
            ids = self._nearest(latents)
        else:
            blocks = zip(
                latents.split(DECODED_AT_ONCE), token_places(coded, window).split(DECODED_AT_ONCE), strict=True
            )
            ids = torch.cat([self._likeliest(*block) for block in blocks])
        return join(self.vocabulary[ids].flatten(1), embeddings, coded, window)

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs: those of `codec`."""
        return self.codec.bits(embeddings, coded)

    def _nearest(self, latents: Float[Tensor, "n compress"]) -> Int[Tensor, "n 1"]:
        order, arrived = self._arrived
        # float64, since |a|^2 + |b|^2 - 2ab loses small distances in float32
        nearest = torch.cat(
            [torch.cdist(block.double(), arrived).argmin(1) for block in latents.split(DECODED_AT_ONCE)]
        )
        return order[nearest][:, None]

    @cached_property
    def _arrived(self) -> tuple[Int[Tensor, " vocab"], Float[Tensor, "vocab compress"]]:
        """Vocabulary entries, most frequent in training text first, and their quantised latents."""
        order = self.prior.argsort(descending=True, stable=True)
        return order, self.codec.received(self.vocabulary[order]).double()

    def _likeliest(
        self, latents: Float[Tensor, "n compress"], filled: Bool[Tensor, "n window"]
    ) -> Int[Tensor, "n window"]:
        """The most likely tokens of each window; padding contributes nothing."""
        pca = self.codec.pca
        rebuilt = pca.decode(latents).view(-1, self.vocabulary.shape[1])
        ids = self.nearest(rebuilt).view(filled.shape)
        offset = self.gain * (pca.mean @ pca.components.T)
        left = (latents + offset) * self.precision.sqrt() - self._sum(ids, filled)
        going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(MOST_SWEEPS):
            before = ids.clone()
            for place, table in enumerate(self._tables):
                on = filled[:, place] & going
                alone = left[on] + table[ids[on, place]]
                ids[on, place] = (alone @ table.T - table.square().sum(1) / 2 + self.prior).argmax(1)
                left[on] = alone - table[ids[on, place]]
            going = (ids != before).any(1)  # windows that a whole sweep left as they were would stay so
            if not going.any():
                break
        return ids

    def _sum(self, ids: Int[Tensor, "n window"], filled: Bool[Tensor, "n window"]) -> Float[Tensor, "n compress"]:
        """The sum of the contributions of each window's tokens to the latents."""
        tables = enumerate(self._tables)
        return torch.stack([table[ids[:, i]] * filled[:, i, None] for i, table in tables]).sum(0)

    @cached_property
    def _tables(self) -> list[Float[Tensor, "vocab compress"]]:
        """The contribution of each vocabulary entry to the latents, in units of their noise, for each place in a window."""
        parts = self.codec.pca.components.view(-1, self.codec.window, self.vocabulary.shape[1]).unbind(1)
        return [self.vocabulary @ part.T * self.gain * self.precision.sqrt() for part in parts]
