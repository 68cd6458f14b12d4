"""What latents cost in bits: one rounding step for all components, and one table of probabilities per component.

With one step, every component that is sent gets the same error, and a component that varies less than the step is
rounded to zero and costs next to nothing: reverse water-filling, the optimal allocation for Gaussian sources (Cover and
Thomas, Elements of Information Theory, 2nd ed., section 10.3.3; Goyal, Theoretical foundations of transform coding,
IEEE Signal Processing Magazine 18(5), 2001).
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Float, Int
from scipy.optimize import brentq
from torch import Tensor

from narrowband.params import InputError

PRECISION = 24
"""Probabilities are integer multiples of 2^-24."""

ESCAPE_BITS = 24
"""Bits of a symbol outside its component's alphabet, sent after an escape."""

LIMIT = 2 ** (ESCAPE_BITS - 1) - 1
"""Largest absolute value of a symbol."""

LARGEST_ALPHABET = 2**16
"""Maximum number of cells of a component; with more, float16 would be as good."""

TRIED_FIRST = 2048
"""Training vectors, evenly spaced, on which a step is searched before it is searched on all of them."""

PRIOR = 64
"""Weight of the Gaussian prior, in training vectors; it matters for cells seen rarely or never."""


class TooFineError(InputError):
    """A step cuts a component into more cells than are coded."""


@dataclass(frozen=True)
class EntropyModel:
    """A step, and for each component the alphabet, probabilities and reconstruction points of its symbols.

    Component `i` has `sizes[i]` symbols, from `low[i]` on; the last one is an escape for all other values. A component of size
    1 is dropped: its only symbol is 0. The tables of all components are concatenated. The coder reads integers only, so two
    machines that load the same model agree bit for bit.
    """

    step: Float[Tensor, " 1"]
    low: Int[Tensor, " compress"]
    sizes: Int[Tensor, " compress"]
    frequencies: Int[Tensor, " table"]
    points: Float[Tensor, " table"]

    @classmethod
    def fit(cls, latents: Float[Tensor, "n compress"], step: float) -> "EntropyModel":
        """Fit tables to training latents rounded to multiples of `step`.

        Frequencies are counts smoothed by a Gaussian. A reconstruction point is the mean of the latents rounded to it (and of
        the cell's middle, counted once), because the mean has the least squared error (Lloyd, Least squares quantization in
        PCM, 1982).

        Raises:
            InputError: there are no latents, some are not finite, or `step` cuts a component into more than 65,536 cells or
                drops all components.
        """
        model = cls._fitted(latents, step)[0]
        if int(model.sizes.max()) == 1:
            raise InputError(
                f"a step of {step:.3g} rounds all latents to 0, so that nothing is sent; choose a step of at most "
                f"{1.99 * float(latents.abs().max()):.3g} or raise latent_coding.bits_per_token"
            )
        return model

    @classmethod
    def _fitted(cls, latents: Float[Tensor, "n compress"], step: float) -> "tuple[EntropyModel, float]":
        """The model of `fit`, and the ideal bits that a vector of `latents` costs with it, on average."""
        if not len(latents):
            raise InputError("an entropy model needs at least one training vector but there is none; raise data.train")
        latents = latents.detach().cpu().double()
        symbols = _rounded(latents, step)
        low, sizes = _alphabets(symbols, latents, step)
        counts, sums = _totals(symbols, latents, low, sizes)
        middles = _symbols(low, sizes).double() * step
        points = (sums + middles) / (counts + 1)
        weights = counts + PRIOR * _gaussian(latents, middles, sizes, step)
        frequencies = _whole(_with_escapes(weights, len(latents), sizes), sizes)
        scale = torch.tensor([step], dtype=torch.float64)
        bits = float(counts @ _bits(frequencies)) / len(latents)  # no training latent is outside its alphabet
        return cls(scale, low.int(), sizes.int(), frequencies.int(), points.float()), bits

    @classmethod
    def fit_rate(cls, latents: Float[Tensor, "n compress"], bits: float) -> "EntropyModel":
        """Fit with the step at which a training vector costs `bits` on average, within about 0.1%.

        Raises:
            InputError: see `fit`; or no step meets that rate.
        """
        spread = float(latents.double().std(0, correction=0).max())
        if not (0 < bits < math.inf and spread > 0):
            raise InputError(
                f"{bits:g} bits a vector of latents can't be met; the rate must be above 0, and the latents must vary"
            )

        def root(some: Tensor, start: float, stride: float) -> float:
            surplus = cache(lambda log_step: cls._fitted(some, math.exp(log_step))[1] - bits)
            fine = coarse = start
            while surplus(fine) < 0:
                coarse, fine = fine, fine - stride
            while surplus(coarse) > 0:
                fine, coarse = coarse, coarse + stride
            return fine if fine == coarse else float(brentq(surplus, fine, coarse, xtol=2e-4))

        try:
            near = root(latents[:: -(-len(latents) // TRIED_FIRST)], math.log(spread), 1.0)
            return cls.fit(latents, math.exp(root(latents, near, 0.02)))
        except TooFineError:
            raise InputError(
                f"{bits:.3g} bits are more than a vector of {latents.shape[1]} latents can be cut finely enough for, at most "
                f"{LARGEST_ALPHABET} cells each; lower latent_coding.bits_per_token or raise compress_dim"
            ) from None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; `EntropyModel(**tensors)` restores the model."""
        names = ("step", "low", "sizes", "frequencies", "points")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device) -> "EntropyModel":
        """The same on `device`."""
        return EntropyModel(**{name: tensor.to(device) for name, tensor in self.tensors.items()})

    @cached_property
    def starts(self) -> Int[Tensor, " compress"]:
        """Where each component's table begins."""
        return self.sizes.long().cumsum(0) - self.sizes

    def quantize(self, latents: Float[Tensor, "n compress"]) -> Int[Tensor, "n compress"]:
        """The nearest multiples of the step (ties to even), and 0 for dropped components.

        Raises:
            InputError: latents that are not finite.
        """
        return (_rounded(latents, self.step) * (self.sizes > 1)).int()

    def dequantize(self, symbols: Int[Tensor, "n compress"]) -> Float[Tensor, "n compress"]:
        """The reconstruction points of symbols; for a symbol outside its alphabet, symbol x step."""
        index, escaped = self.index(symbols)
        return torch.where(escaped, (symbols * self.step).float(), self.points[index + self.starts])

    def ideal_bits(self, symbols: Int[Tensor, "n compress"]) -> Float[Tensor, " n"]:
        """The ideal code length of each vector of symbols: minus the base-2 logarithm of its probability."""
        index, escaped = self.index(symbols)
        return (_bits(self.frequencies)[index + self.starts] + ESCAPE_BITS * escaped).sum(1)

    @cached_property
    def least_bits(self) -> float:
        """Ideal bits of the cheapest possible vector."""
        tables = self.frequencies.split(self.sizes.tolist())
        return sum(PRECISION - math.log2(int(table.max())) for table in tables)

    def index(self, symbols: Int[Tensor, "n compress"]) -> tuple[Int[Tensor, "n compress"], Tensor]:
        """Each symbol's place in its component's table, and whether that is the escape."""
        index = symbols.long() - self.low
        last = self.sizes.long() - 1
        escaped = (last > 0) & ((index < 0) | (index >= last))
        return torch.where(escaped, last, index), escaped


def _bits(frequencies: Tensor) -> Tensor:
    """The ideal code length of each table entry."""
    return PRECISION - frequencies.double().log2()


def _rounded(latents: Tensor, step: Tensor | float) -> Tensor:
    """Latents as whole numbers of steps [n, compress]."""
    if not latents.isfinite().all():
        raise InputError("latents to be sent must be finite but some are NaN or infinite; check the embeddings")
    return (latents.double() / step).round().clamp(-LIMIT, LIMIT).long()


def _alphabets(symbols: Tensor, latents: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Lowest symbol and number of symbols (escape included) of each component: the range of training data plus a margin."""
    low, high = symbols.amin(0), symbols.amax(0)
    margin = 1 + (high - low) // 8
    dropped = (low == 0) & (high == 0)
    sizes = torch.where(dropped, 1, high - low + 2 * margin + 2)
    if (largest := int(sizes.max())) > LARGEST_ALPHABET:
        least = float((latents.amax(0) - latents.amin(0)).max()) * 1.5 / LARGEST_ALPHABET
        raise TooFineError(
            f"a step of {step:.3g} cuts a component into {largest} cells but at most {LARGEST_ALPHABET} are coded; "
            f"choose a step of at least {least:.2g} or set latent_coding.kind to fixed"
        )
    return torch.where(dropped, 0, low - margin), sizes


def _symbols(low: Tensor, sizes: Tensor) -> Tensor:
    """The symbol of each table entry (of an escape, no meaning): [table]."""
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return torch.arange(int(sizes.sum())) - starts + low.repeat_interleave(sizes)


def _totals(symbols: Tensor, latents: Tensor, low: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Number and sum of the latents rounded to each entry: two tensors [table]."""
    flat = (symbols - low + sizes.cumsum(0) - sizes).flatten()
    total = int(sizes.sum())
    counts = torch.bincount(flat, minlength=total).double()
    return counts, torch.bincount(flat, latents.flatten(), minlength=total)


def _gaussian(latents: Tensor, middles: Tensor, sizes: Tensor, step: float) -> Tensor:
    """The probability of each entry's cell under a Gaussian of the component's mean and variance: [table]."""
    mean = latents.mean(0).repeat_interleave(sizes)
    deviation = latents.std(0, correction=0).clamp(min=1e-3 * step).repeat_interleave(sizes)
    upper = torch.special.ndtr((middles + step / 2 - mean) / deviation)
    return upper - torch.special.ndtr((middles - step / 2 - mean) / deviation)


def _with_escapes(weights: Tensor, n: int, sizes: Tensor) -> Tensor:
    """Probabilities [table]; an escape gets the prior mass outside the alphabet, and the weight of one training vector."""
    weights = weights.clone()
    ends = sizes.cumsum(0) - 1
    weights[ends] = 0
    covered = torch.zeros(len(sizes), dtype=torch.float64)
    covered.index_add_(0, torch.arange(len(sizes)).repeat_interleave(sizes), weights)
    weights[ends] = (n + PRIOR - covered).clamp(min=0) + 1
    return weights / (n + PRIOR + 1)


def _whole(probabilities: Tensor, sizes: Tensor) -> Tensor:
    """Integers [table], at least 1 each, with sum 2^24 per component: differences of the rounded distribution function."""
    owner = torch.arange(len(sizes)).repeat_interleave(sizes)
    below = owner.double()  # each earlier table sums to 1
    free = (2**PRECISION - sizes)[owner]
    bounds = ((probabilities.cumsum(0) - below) * free).round().clamp(min=0).long()
    bounds[sizes.cumsum(0) - 1] = free[sizes.cumsum(0) - 1]
    previous = bounds.roll(1)
    previous[sizes.cumsum(0) - sizes] = 0
    return bounds - previous + 1
