"""Simpler ways to send embeddings, which PCA with an adapter has to beat at an equal rate."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.windows import cut, join, positions
from narrowband.evaluation.answer import System
from narrowband.lm.nearest import NearestTokens

HALF = 16
"""Bits of a float16: what numbers are sent as unless a baseline says otherwise."""

DEPTHS = (8, 4, 2, 1)
"""Bits a component of the scalar quantiser; with 1, its rate is about that of PCA latents at 16x."""

LATENT_BITS = (16, 8, 4)
"""Bits a latent of PCA and of Phase 2, beside `latent_bits` itself."""


@dataclass(frozen=True)
class Truncation:
    """The first `kept` components of each token's embedding as float16; the others read as zero."""

    kept: int

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens truncated."""
        dropped = embeddings.shape[-1] - self.kept
        return _replace(embeddings, coded, F.pad(embeddings[coded][:, : self.kept].half().float(), (0, dropped)))

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        return int(coded.sum()) * self.kept * HALF


@dataclass(frozen=True)
class RandomProjection:
    """Windows on random directions instead of principal ones, as float16, and the best linear decoder for them."""

    directions: Float[Tensor, "compress vector"]
    decoder: Float[Tensor, "compress vector"]
    mean: Float[Tensor, " vector"]
    window: int

    @classmethod
    def fit(cls, windows: Iterable[Float[Tensor, "_ vector"]], pca: PCA, window: int, seed: int) -> Self:
        """As many Gaussian directions as `pca` has components; the decoder by least squares on training windows."""
        compress, width = pca.components.shape
        generator = torch.Generator().manual_seed(seed)
        directions = (torch.randn(compress, width, generator=generator) / math.sqrt(width)).to(pca.mean.device)
        gram = torch.zeros(compress, compress, dtype=torch.float64)
        cross = torch.zeros(compress, width, dtype=torch.float64)
        for vectors in windows:
            centred = vectors - pca.mean
            latents = centred @ directions.T
            gram += (latents.T @ latents).double().cpu()
            cross += (latents.T @ centred).double().cpu()
        decoder = (torch.linalg.pinv(gram, hermitian=True) @ cross).float().to(pca.mean.device)
        return cls(directions, decoder, pca.mean, window)

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by their reconstruction."""
        coded = coded.to(embeddings.device)
        latents = ((cut(embeddings, coded, self.window) - self.mean) @ self.directions.T).half().float()
        return join(latents @ self.decoder + self.mean, embeddings, coded, self.window)

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs: latents of all its windows, the filled-up ones too."""
        return len(positions(coded, self.window)) * len(self.directions) * HALF


@dataclass(frozen=True)
class ScalarQuantizer:
    """Each component of an embedding on a uniform grid of 2^`depth` cells, read back as the cell's centre.

    The grid spans the token's own least to largest component; its start and cell width are sent as float16.
    """

    depth: int
    hidden: int

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens quantised."""
        tokens = embeddings[coded]
        low = tokens.amin(-1, keepdim=True).half().float()
        cell = ((tokens.amax(-1, keepdim=True) - low) / 2**self.depth).half().float().clamp(min=1e-12)
        levels = torch.floor((tokens - low) / cell).clamp(0, 2**self.depth - 1)
        return _replace(embeddings, coded, low + (levels + 0.5) * cell)

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs, side information included."""
        return int(coded.sum()) * (self.hidden * self.depth + 2 * HALF)


@dataclass(frozen=True)
class Snapped:
    """What `system` sends, snapped to the vocabulary entry nearest by cosine, which the receiver knows."""

    system: System
    vocabulary: Float[Tensor, "vocab hidden"]
    nearest: NearestTokens

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by vocabulary entries."""
        received = self.system(embeddings, coded)
        return _replace(received, coded, self.vocabulary[self.nearest(received[coded])])

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs: those of `system`."""
        return self.system.bits(embeddings, coded)


@dataclass(frozen=True)
class TokenId:
    """The number of the token instead of its embedding: lossless, as static embeddings are a lookup."""

    vocabulary: Float[Tensor, "vocab hidden"]
    nearest: NearestTokens

    @property
    def depth(self) -> int:
        """Bits of one token's number."""
        return math.ceil(math.log2(len(self.vocabulary)))

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens looked up again."""
        return _replace(embeddings, coded, self.vocabulary[self.nearest(embeddings[coded])])

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        return int(coded.sum()) * self.depth


class Fitting(NamedTuple):
    """What baselines may be fitted on: the PCA as a codec without adapter, the vocabulary with its search, training windows."""

    pca: Codec
    vocabulary: Float[Tensor, "vocab hidden"]
    nearest: NearestTokens
    windows: Iterable[Float[Tensor, "_ vector"]]
    seed: int

    @property
    def hidden(self) -> int:
        """Width of a token embedding."""
        return self.vocabulary.shape[1]


def truncations(fitting: Fitting) -> dict[str, System]:
    """As many components as give the rate of PCA at 16 bits, and four times as many."""
    config, hidden = fitting.pca.config, fitting.hidden
    kept = [min(hidden, times * max(1, config.compress_dim // config.window)) for times in (1, 4)]
    return {f"first {k} of {hidden} components": Truncation(k) for k in kept}


def random_projections(fitting: Fitting) -> dict[str, System]:
    """As many random directions as PCA has components."""
    config = fitting.pca.config
    projection = RandomProjection.fit(fitting.windows, fitting.pca.pca, config.window, fitting.seed)
    return {grid(config, HALF): projection}


def grid(config: CodecConfig, bits: int) -> str:
    """The setting of a system that sends latents of so many bits."""
    return f"{config.compress_dim} latents of {bits} bits"


def rate_of(config: CodecConfig) -> str:
    """The setting of a codec, by its rate."""
    coding = config.latent_coding
    if coding.kind == "fixed":
        return grid(config, config.latent_bits)
    return f"entropy-coded, step {coding.step:g}" if coding.step else f"entropy-coded to {coding.bits_per_token:g} bits"


def rates(codec: Codec) -> dict[str, Codec]:
    """`codec` at its own rate and with latents of `LATENT_BITS`, by setting."""
    own = [codec] if codec.coder else []
    grids = {*LATENT_BITS} if own else {codec.config.latent_bits, *LATENT_BITS}
    return {rate_of(one.config): one for one in (*own, *map(codec.with_latent_bits, sorted(grids, reverse=True)))}


def token_ids(fitting: Fitting) -> dict[str, System]:
    """The lossless code that all others stand beside."""
    system = TokenId(fitting.vocabulary, fitting.nearest)
    return {f"{system.depth} bits": system}


SYSTEMS: dict[str, Callable[[Fitting], Mapping[str, System]]] = {
    "truncation": truncations,
    "random projection": random_projections,
    "scalar quantiser": lambda fitting: {f"int{depth}": ScalarQuantizer(depth, fitting.hidden) for depth in DEPTHS},
    "pca": lambda fitting: rates(fitting.pca),
    "pca snapped": lambda fitting: {
        rate_of(fitting.pca.config): Snapped(fitting.pca, fitting.vocabulary, fitting.nearest)
    },
    "token id": token_ids,
}
"""Every way to send embeddings that needs no training by steps, by name: one system for each setting."""


def _replace(embeddings: Tensor, coded: Tensor, tokens: Tensor) -> Tensor:
    """`embeddings` with those at the coded positions, in row-major order, replaced by `tokens` [coded, hidden]."""
    replaced = embeddings.clone()
    replaced[coded] = tokens
    return replaced
