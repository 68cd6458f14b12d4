"""Simpler ways to send embeddings, which PCA with an adapter has to beat at an equal rate."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.bitstream import STREAM_BITS
from narrowband.codec.codec import Codec
from narrowband.codec.coder import LatentCoder
from narrowband.codec.config import CodecConfig
from narrowband.codec.entropy import EntropyModel
from narrowband.codec.fitting import fit_coder, moments
from narrowband.codec.quantize import FLOAT16_BITS, float16
from narrowband.codec.token_windows import coded_lengths, embedded
from narrowband.codec.windows import cut, join, token_places, with_tokens
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import coded_counts
from narrowband.data.vocabulary import mixed_in, plain_tokens
from narrowband.evaluation.answer import QuestionAnswerer, System
from narrowband.evaluation.lookup import Lookup
from narrowband.evaluation.quantizers import RotationQuantizer, Sample, ScalarQuantizer, VectorQuantizer
from narrowband.evaluation.token_ids import PredictedTokenId, TokenId, UnigramTokenId, code_lengths
from narrowband.evaluation.wire import Frame
from narrowband.params import InputError

LATENT_BITS = (FLOAT16_BITS, 4)
"""Bits per latent that PCA and Phase 2 are evaluated with, in addition to `latent_bits`."""

ROTATION_DEPTHS = (1, 2)
"""Bits per component after a random rotation."""

PROMPTS_AT_ONCE = 64
"""Prompts that are embedded at a time."""

LOOKUP_PROMPTS = 64
"""Maximum number of training prompts that a lookup's noise is measured on."""

MOST_PROMPTS = 2_000
MOST_TOKENS = 2**13
"""Maximum number of training prompts and tokens that entropy coders are fitted on; of more, an evenly spaced subset."""

MOST_STATES = 2**16
"""Maximum number of states after a block that quantisers are fitted on; of more, an evenly spaced subset."""


@dataclass(frozen=True)
class Truncation:
    """The first `kept` components of each token's embedding as float16; the others read as zero."""

    kept: int

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens truncated."""
        dropped = embeddings.shape[-1] - self.kept
        return with_tokens(embeddings, coded, F.pad(float16(embeddings[coded][:, : self.kept]), (0, dropped)))

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        return int(coded.sum()) * self.kept * FLOAT16_BITS


@dataclass(frozen=True)
class MeanVector:
    """Nothing is sent, and every coded token reads as the mean of those of training prompts.

    What the model still answers so comes from tokens that do not pass through the codec.
    """

    mean: Float[Tensor, " hidden"]

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by the mean."""
        return torch.where(coded.to(embeddings.device)[..., None], self.mean, embeddings)

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """0: nothing is sent."""
        return 0


@dataclass(frozen=True)
class RandomProjection:
    """Windows projected on random instead of principal directions, as float16, and the best linear decoder."""

    directions: Float[Tensor, "compress vector"]
    decoder: Float[Tensor, "compress vector"]
    mean: Float[Tensor, " vector"]
    window: int

    @classmethod
    def fit(
        cls,
        mean: Float[Tensor, " vector"],
        covariance: Float[Tensor, "vector vector"],
        compress: int,
        window: int,
        seed: int,
    ) -> Self:
        """`compress` Gaussian directions; the decoder by least squares on windows of that mean and covariance (float64)."""
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(compress, len(mean), generator=generator) / math.sqrt(len(mean))
        cross = directions.double() @ covariance
        decoder = torch.linalg.pinv(cross @ directions.double().T, hermitian=True) @ cross
        return cls(directions, decoder.float(), mean.float(), window)

    def to(self, device: torch.device) -> "RandomProjection":
        """The same on `device`."""
        return RandomProjection(self.directions.to(device), self.decoder.to(device), self.mean.to(device), self.window)

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by their reconstruction."""
        coded = coded.to(embeddings.device)
        latents = float16((cut(embeddings, coded, self.window) - self.mean) @ self.directions.T)
        return join(latents @ self.decoder + self.mean, embeddings, coded, self.window)

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs: latents of all its windows, zero-padded ones included."""
        return len(token_places(coded, self.window)) * len(self.directions) * FLOAT16_BITS


@dataclass(frozen=True)
class TrainingText:
    """What systems may be fitted on that do not depend on the codec: training prompts, the base model, a random seed.

    Systems with an adjustable rate are fitted to that of the codec: `bits_per_token`, stream headers included. As with the codec,
    what is fitted to vectors sees prompts with a `vocabulary_share` of random tokens, and code lengths are those of prompts.
    """

    answerer: QuestionAnswerer
    train: Sequence[EncodedPrompt]
    seed: int
    bits_per_token: float
    vocabulary_share: float

    def settings(self, answers: Mapping[str, Any], count: int) -> dict[str, Any]:
        """What rows of `count` questions are made with, `answers` being the settings of any answers."""
        own = {"seed": self.seed, "bits_per_token": self.bits_per_token, "vocabulary_share": self.vocabulary_share}
        return {**answers, "questions_asked": count, **own}

    @property
    def vocabulary(self) -> Float[Tensor, "vocab hidden"]:
        """The embedding of every token."""
        return self.answerer.lm.vocabulary

    @property
    def hidden(self) -> int:
        """Width of a token embedding."""
        return self.answerer.lm.hidden_size

    @cached_property
    def counts(self) -> Int[Tensor, " vocab"]:
        """How often each token passes through the codec in training prompts."""
        return self._counts(self.train)

    def mixed(self, purpose: str) -> Sequence[EncodedPrompt]:
        """Training prompts with random tokens among theirs, which differ from `purpose` to `purpose`."""
        allowed = plain_tokens(self.answerer.lm.tokenizer)
        return mixed_in(self.train, self.vocabulary_share, allowed, f"{self.seed}/vocabulary/{purpose}")

    @cached_property
    def sample(self) -> Sample:
        """Embeddings of the distinct coded tokens of training prompts and the random ones among them, and how often each occurs.

        Or, of states after a block, an evenly spaced subset, each counted once.
        """
        if self.answerer.lm.sender_blocks:
            states = self._some_states()
            once = torch.ones(len(states), dtype=torch.long)
            return Sample(states, once, once)
        weights = self._counts(self.mixed("quantizers"))
        known = (weights + self.counts).nonzero()[:, 0]
        return Sample(self.vocabulary[known.to(self.vocabulary.device)].cpu(), weights[known], self.counts[known])

    @property
    def mean_vector(self) -> MeanVector:
        """The mean of the coded tokens of training prompts, or of a subset of their states."""
        if self.answerer.lm.sender_blocks:
            return MeanVector(self.sample.vectors.mean(0).to(self.vocabulary.device))
        counts = self.counts.to(self.vocabulary)
        return MeanVector(counts @ self.vocabulary / counts.sum())

    def _counts(self, prompts: Sequence[EncodedPrompt]) -> Int[Tensor, " vocab"]:
        ids, times = coded_counts(prompts)
        return torch.zeros(len(self.vocabulary), dtype=torch.long).index_copy(0, ids, times)

    def _some_states(self) -> Float[Tensor, "n hidden"]:
        train = self.train[:: -(-len(self.train) // MOST_PROMPTS)]
        every = -(-int(coded_lengths(train).sum()) // MOST_STATES)
        kept, before = list[Tensor](), 0
        for states, coded in embedded(self.answerer.lm, train, PROMPTS_AT_ONCE):
            kept.append(states[coded][-before % every :: every].cpu())  # all of them may take gigabytes
            before += int(coded.sum())
        return torch.cat(kept)

    @property
    def symbol_bits(self) -> float:
        """Bits per token that stream headers leave for symbols."""
        return self.bits_per_token - STREAM_BITS * len(self.train) / int(self.counts.sum())


@dataclass(frozen=True)
class Fitting(TrainingText):
    """The same, and the PCA as a codec without adapter, for systems that depend on the codec."""

    pca: Codec

    @property
    def windows(self) -> Float[Tensor, "n vector"]:
        """Windows of an evenly spaced subset of training prompts."""
        some = self.train[:: -(-len(self.train) // LOOKUP_PROMPTS)]
        return torch.cat([cut(*batch, self.pca.window) for batch in embedded(self.answerer.lm, some, PROMPTS_AT_ONCE)])

    @cached_property
    def coder(self) -> LatentCoder | None:
        """The codec's own coder, or one fitted to its `bits_per_token`; `None` if latents can't be sent at that rate."""
        if self.pca.coder:
            return self.pca.coder
        train = self.train[:: -(-len(self.train) // MOST_PROMPTS)]
        pca, config = self.pca.pca.to(torch.device("cpu")), entropy_coded(self.pca.config)
        try:
            coder = fit_coder(self.answerer.lm, train, pca, config.latent_coding, config.magnitude)
        except InputError:
            return None
        return LatentCoder.of(self.pca.pca, coder.tensors)


def entropy_coded(config: CodecConfig) -> CodecConfig:
    """`config` with `latent_coding.kind` set to `entropy`."""
    return replace(config, latent_coding=config.latent_coding.model_copy(update={"kind": "entropy"}))


def truncations(fitting: Fitting) -> dict[str, System]:
    """As many components as give the rate of PCA at 16 bits."""
    config, hidden = fitting.pca.config, fitting.hidden
    kept = min(hidden, max(1, config.compress_dim // config.window))
    return {f"first {kept} of {hidden} components": Truncation(kept)}


def random_projections(fitting: Fitting) -> dict[str, System]:
    """As many random directions as PCA has components."""
    config, lm = fitting.pca.config, fitting.answerer.lm
    statistics = moments(lm, fitting.mixed("pca"), config.window)
    projection = RandomProjection.fit(*statistics, config.compress_dim, config.window, fitting.seed)
    return {grid(config, FLOAT16_BITS): projection.to(lm.device)}


def grid(config: CodecConfig, bits: int) -> str:
    """The name of the setting with latents of `bits` bits."""
    return f"{config.compress_dim} latents of {bits} bits"


def rate_of(config: CodecConfig) -> str:
    """The name of a codec's setting, by its rate."""
    coding = config.latent_coding
    if coding.kind == "fixed":
        return grid(config, config.latent_bits)
    return f"entropy-coded, step {coding.step:g}" if coding.step else f"entropy-coded to {coding.bits_per_token:g} bits"


def rates(codec: Codec, coder: LatentCoder | None) -> dict[str, Codec]:
    """`codec` entropy-coded by `coder`, at its own rate, and with latents of `LATENT_BITS`, by setting."""
    coded = [codec.with_rate(entropy_coded(codec.config), coder)] if coder else []
    grids = {*LATENT_BITS} if codec.coder else {codec.config.latent_bits, *LATENT_BITS}
    return {rate_of(one.config): one for one in (*coded, *map(codec.with_latent_bits, sorted(grids, reverse=True)))}


def lookups(fitting: Fitting) -> dict[str, System]:
    """PCA's latents, at their own rate and entropy-coded, decoded with the embedding table, which needs no magnitudes."""
    own, coded = fitting.pca, rates(fitting.pca, fitting.coder)
    kept = {rate_of(own.config): own, **{rate: codec for rate, codec in coded.items() if codec.coder}}
    kept = {rate: codec.with_rate(replace(codec.config, magnitude="none"), codec.coder) for rate, codec in kept.items()}
    known = fitting.answerer.lm.nearest, fitting.counts, fitting.windows
    return {rate: Lookup.fit(codec, *known) for rate, codec in kept.items()}


def scalar_quantizers(text: TrainingText) -> dict[str, System]:
    """One step for all components, at the codec's rate; empty if that rate can't be met."""
    vectors, _, sent = text.sample
    places = torch.arange(len(sent)).repeat_interleave(sent)
    drawn = vectors[places[:: -(-len(places) // MOST_TOKENS)]]
    try:
        model = EntropyModel.fit_rate(drawn, text.symbol_bits)
    except InputError:
        return {}
    return {f"to {text.bits_per_token:g} bits": ScalarQuantizer(model.to(text.vocabulary.device))}


def vector_quantizers(
    fit: Callable[[Sample, float, int], VectorQuantizer],
) -> Callable[[TrainingText], dict[str, System]]:
    """A vector quantiser of at most the codec's rate on what it is fitted on, and of at least 1 bit."""

    def fitted(text: TrainingText) -> dict[str, System]:
        if text.symbol_bits < 1:
            return {}
        quantizer = fit(text.sample, text.symbol_bits, text.seed)
        return {f"up to {text.bits_per_token:g} bits": quantizer.to(text.vocabulary.device)}

    return fitted


def rotations(text: TrainingText) -> dict[str, System]:
    """One and two bits a component."""
    drawn = {depth: RotationQuantizer.draw(text.hidden, depth, text.seed) for depth in ROTATION_DEPTHS}
    return {f"{2**depth} levels": one.to(text.vocabulary.device) for depth, one in drawn.items()}


def token_ids(text: TrainingText) -> dict[str, System]:
    """Token ids: of fixed length, under the training text's unigram model, and under the base model's predictions."""
    lm = text.answerer.lm
    plain = TokenId(lm.nearest)
    before = tuple(Frame.known(text.answerer).before)
    return {
        f"{plain.depth} bits": plain,
        "unigram model": UnigramTokenId(lm.nearest, code_lengths(text.counts)),
        "base model": PredictedTokenId(lm.nearest, lm, before),
    }


REFERENCES: dict[str, Callable[[TrainingText], Mapping[str, System]]] = {
    "scalar quantiser": scalar_quantizers,
    "residual quantiser": vector_quantizers(VectorQuantizer.residual),
    "product quantiser": vector_quantizers(VectorQuantizer.product),
    "rotation": rotations,
    "token id": token_ids,
}
"""Ways to send embeddings that do not depend on the codec, by name; each gives one system per setting."""

OF_CODEC: dict[str, Callable[[Fitting], Mapping[str, System]]] = {
    "truncation": truncations,
    "random projection": random_projections,
    "pca": lambda fitting: rates(fitting.pca, fitting.coder),
    "pca lookup": lookups,
}
"""Ways without gradient training that depend on the codec's `compress_dim`, its window or its PCA."""

TABLE_SYSTEMS = ("pca lookup", "token id")
"""Systems that look tokens up in the embedding table, so they can't send states after a block."""
