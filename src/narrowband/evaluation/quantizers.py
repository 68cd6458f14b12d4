"""Quantisers of single token embeddings: without windows, adapter or embedding table."""

import math
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.entropy import EntropyModel
from narrowband.codec.quantize import FLOAT16_BITS, float16
from narrowband.codec.windows import with_tokens
from narrowband.evaluation.token_ids import code_lengths, stream_bits

LARGEST_CODEBOOK_BITS = 8
"""A codebook has at most 2^8 codewords."""

MOST_STAGES = 256
LEAST_ENERGY = 1e-6
"""A residual quantiser adds no stage once the residual has less than this share of the vectors' energy."""


class Sample(NamedTuple):
    """Distinct vectors, their weights in the fit of codewords, and how often each is sent, which code lengths are fitted to."""

    vectors: Float[Tensor, "n hidden"]
    weights: Int[Tensor, " n"]
    sent: Int[Tensor, " n"]

    def energy(self, vectors: Float[Tensor, "n hidden"]) -> float:
        """Weighted sum of the squared norms of `vectors`, one for each of the sample."""
        return float(vectors.double().square().sum(1) @ self.weights.double())

    def lengths(self, chosen: Int[Tensor, " n"], words: int) -> tuple[Float[Tensor, " words"], float]:
        """Bits of each of `words` codewords if vector i sends codeword `chosen[i]`, and their mean over what is sent."""
        bits = code_lengths(torch.bincount(chosen, self.sent, minlength=words))
        return bits, float(bits[chosen] @ self.sent.double() / self.sent.sum())


class Stage(NamedTuple):
    """A codebook, the codeword of each vector of the sample, bits of each codeword, and the mean bits of those sent."""

    book: Float[Tensor, "words hidden"]
    chosen: Int[Tensor, " n"]
    lengths: Float[Tensor, " words"]
    bits: float


@dataclass(frozen=True)
class ScalarQuantizer:
    """Components rounded to multiples of one common step, and entropy-coded with a table per component.

    At high rates this is within 0.25 bits a component of any quantiser (Gish and Pierce, Asymptotically efficient quantizing,
    IEEE Transactions on Information Theory 14(5), 1968).
    """

    model: EntropyModel

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens quantised."""
        coded = coded.to(embeddings.device)
        return with_tokens(embeddings, coded, self.model.dequantize(self.model.quantize(embeddings[coded])))

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        symbols = self.model.quantize(embeddings[coded.to(embeddings.device)])
        return stream_bits(float(self.model.ideal_bits(symbols).sum()), coded)


@dataclass(frozen=True)
class VectorQuantizer:
    """A token is the sum of one codeword per codebook; indices are entropy-coded, and `lengths` are the bits of each codeword.

    Each stage sends the codeword nearest to the residual of the stages before it.
    """

    codebooks: Sequence[Float[Tensor, "_ hidden"]]
    lengths: Sequence[Float[Tensor, " _"]]

    @classmethod
    def residual(cls, sample: Sample, bits: float, seed: int) -> Self:
        """Codebooks by k-means, each fitted to the residual of those before it, until `bits` per vector are spent.

        Juang and Gray, Multiple stage vector quantization for speech coding (ICASSP 1982). Each codebook is the largest that the
        bits left allow. No stage is added once the residual is negligible.
        """
        left, stages, energy = sample.vectors, list[Stage](), sample.energy(sample.vectors)
        while len(stages) < MOST_STAGES and sample.energy(left) > LEAST_ENERGY * energy:
            stage = largest_stage(sample._replace(vectors=left), bits, seed)
            if stage is None:
                break
            stages.append(stage)
            bits -= stage.bits
            left = left - stage.book[stage.chosen]
            exact = left.square().sum(1) <= LEAST_ENERGY * energy / sample.weights.sum()
            left[exact] = 0  # instead of rounding errors
        return cls([stage.book for stage in stages], [stage.lengths for stage in stages])

    @classmethod
    def product(cls, sample: Sample, bits: float, seed: int) -> Self:
        """Codebooks by k-means, each for one of several equal parts of the components: the largest that cost `bits` per vector.

        Jegou, Douze and Schmid, Product quantization for nearest neighbor search, IEEE Transactions on Pattern Analysis and
        Machine Intelligence 33(1), 2011. Entropy-coded indices cost less than their log2, so more than `bits` are tried. Full
        codebooks for fewer parts can lose less than smaller ones for one part more: of the two, what leaves less is taken.
        """
        parts = cache(lambda index_bits: product_stages(sample, index_bits, seed))

        def cost(index_bits: int) -> float:
            return sum(stage.bits for stage in parts(index_bits))

        finest = LARGEST_CODEBOOK_BITS * sample.vectors.shape[1]
        if finest <= 2 * bits and cost(finest) <= bits:
            most = finest
        else:
            tried = range(1, 2 * int(bits) + 1)
            most = tried[max(0, bisect_right(tried, bits, key=cost) - 1)]
        full = max(most - most % LARGEST_CODEBOOK_BITS, min(most, LARGEST_CODEBOOK_BITS))
        stages = min(parts(most), parts(full), key=lambda stages: sample.energy(left_by(stages, sample.vectors)))
        return cls([stage.book for stage in stages], [stage.lengths for stage in stages])

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens quantised."""
        coded = coded.to(embeddings.device)
        tokens = embeddings[coded]
        indices = self.indices(tokens)
        rebuilt = sum(
            (book[index] for book, index in zip(self.codebooks, indices, strict=True)), torch.zeros_like(tokens)
        )
        return with_tokens(embeddings, coded, rebuilt)

    def indices(self, tokens: Float[Tensor, "n hidden"]) -> list[Int[Tensor, " n"]]:
        """The codeword that each stage sends for each token."""
        found = []
        for book in self.codebooks:
            found.append(nearest(tokens, book))
            tokens = tokens - book[found[-1]]
        return found

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs."""
        indices = self.indices(embeddings[coded.to(embeddings.device)])
        ideal = sum(float(bits[index].sum()) for bits, index in zip(self.lengths, indices, strict=True))
        return stream_bits(ideal, coded)

    def to(self, device: torch.device) -> "VectorQuantizer":
        """The same on `device`."""
        return VectorQuantizer([book.to(device) for book in self.codebooks], [one.to(device) for one in self.lengths])


def largest_stage(sample: Sample, bits: float, seed: int) -> Stage | None:
    """A stage with the largest codebook that costs at most `bits` per vector; `None` if even two codewords cost more."""
    for depth in range(LARGEST_CODEBOOK_BITS, 0, -1):
        book = codebook(sample.vectors, sample.weights, depth, seed)
        chosen = nearest(sample.vectors, book)
        stage = Stage(book, chosen, *sample.lengths(chosen, len(book)))
        if stage.bits <= bits:
            return stage
    return None


def left_by(stages: Sequence[Stage], vectors: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
    """What the codewords that `stages` chose for `vectors` leave of them."""
    for stage in stages:
        vectors = vectors - stage.book[stage.chosen]
    return vectors


def product_stages(sample: Sample, index_bits: int, seed: int) -> list[Stage]:
    """A stage for each part of the components, with 2^`index_bits` combinations of codewords; these are zero outside their part."""
    vectors = sample.vectors
    n_parts = min(vectors.shape[1], math.ceil(index_bits / LARGEST_CODEBOOK_BITS))
    depth, deeper = divmod(min(index_bits, LARGEST_CODEBOOK_BITS * n_parts), n_parts)
    stages = []
    for i, places in enumerate(torch.arange(vectors.shape[1]).tensor_split(n_parts)):
        words = codebook(vectors[:, places], sample.weights, depth + (i < deeper), seed)
        chosen = nearest(vectors[:, places], words)
        book = words.new_zeros(len(words), vectors.shape[1])
        book[:, places] = words
        stages.append(Stage(book, chosen, *sample.lengths(chosen, len(words))))
    return stages


def codebook(
    vectors: Float[Tensor, "n width"], weights: Int[Tensor, " n"], depth: int, seed: int
) -> Float[Tensor, "_ width"]:
    """At most 2^`depth` codewords: the means of k-means on weighted vectors, or all of these if they are no more."""
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.exceptions import ConvergenceWarning

    distinct = vectors.unique(dim=0)
    if len(distinct) <= 2**depth:
        return distinct.float()
    means = KMeans(2**depth, n_init=1, max_iter=50, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some vectors differ by no more than rounding
        means.fit(vectors.numpy(), sample_weight=weights.numpy())
    return torch.from_numpy(means.cluster_centers_).float()


def nearest(vectors: Float[Tensor, "n width"], words: Float[Tensor, "k width"]) -> Int[Tensor, " n"]:
    """Index of the word with the least squared distance to each vector."""
    return (vectors @ words.T - words.square().sum(1) / 2).argmax(1)


@dataclass(frozen=True)
class RotationQuantizer:
    """A random rotation, after which each component is nearly Gaussian, and the best 2^`depth` points for a Gaussian.

    The core of TurboQuant (Zandieh et al., arXiv:2504.19874), which is not fitted to data: directions are quantised, and each
    token's norm is sent as float16. Here indices are also entropy-coded, under the Gaussian's probabilities.
    """

    rotation: Float[Tensor, "hidden hidden"]
    points: Float[Tensor, " levels"]

    @classmethod
    def draw(cls, hidden: int, depth: int, seed: int) -> Self:
        """A rotation from the uniform distribution: QR of a Gaussian matrix, signs set (Mezzadri, arXiv:math-ph/0609050)."""
        generator = torch.Generator().manual_seed(seed)
        q, r = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))
        return cls(q * r.diagonal().sign(), lloyd_max(2**depth).float())

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens quantised."""
        coded = coded.to(embeddings.device)
        norm = float16(embeddings[coded].norm(dim=-1, keepdim=True))
        directions = self.points[self._index(embeddings[coded])] @ self.rotation / math.sqrt(len(self.rotation))
        return with_tokens(embeddings, coded, norm * directions)

    def _index(self, tokens: Float[Tensor, "n hidden"]) -> Int[Tensor, "n hidden"]:
        """Index of the nearest point for each rotated component, after scaling its variance to 1."""
        unit = torch.nn.functional.normalize(tokens, dim=-1) * math.sqrt(len(self.rotation))
        return torch.bucketize(unit @ self.rotation.T, thresholds(self.points))

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs, norms included."""
        index = self._index(embeddings[coded.to(embeddings.device)])
        lengths = -cells(self.points.double()).log2()
        return stream_bits(float(lengths[index].sum()) + FLOAT16_BITS * len(index), coded)

    def to(self, device: torch.device) -> "RotationQuantizer":
        """The same on `device`."""
        return RotationQuantizer(self.rotation.to(device), self.points.to(device))


def lloyd_max(levels: int) -> Float[Tensor, " levels"]:
    """The points that quantise a standard Gaussian with the least squared error (Max, Quantizing for minimum distortion, 1960)."""
    share = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    points = torch.special.ndtri(share)
    for _ in range(5_000):
        edges = torch.cat([-torch.ones(1) * math.inf, thresholds(points), torch.ones(1) * math.inf])
        density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
        means = (density[:-1] - density[1:]) / cells(points)
        if torch.equal(means, points):
            break
        points = means
    return points


def thresholds(points: Float[Tensor, " levels"]) -> Float[Tensor, " between"]:
    """The midpoints between neighbouring points."""
    return (points[1:] + points[:-1]) / 2


def cells(points: Float[Tensor, " levels"]) -> Float[Tensor, " levels"]:
    """The probability of each point's cell under a standard Gaussian."""
    below = torch.special.ndtr(thresholds(points))
    return torch.diff(below, prepend=below.new_zeros(1), append=below.new_ones(1))
