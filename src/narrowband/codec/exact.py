"""Latents that are the same to the last bit whatever the batch, the number of threads or the machine."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

FRACTION_BITS = 24
"""Components are rounded to whole numbers of 2^-24, about what float32 holds of them."""

VECTOR_BITS = 28
"""Vectors are rounded to 2^-28 of the largest norm."""


@dataclass(frozen=True)
class ExactProjection:
    """The product with a PCA's components in whole numbers, so that the order of its sums has no say in it.

    A float32 product differs in its last bits with the batch and the threads, and a latent near the middle of two steps is
    then rounded to either. Here both factors are whole numbers. By Cauchy and Schwarz, no partial sum exceeds the product
    of their norms, which is at most 2^52, and float64 adds whole numbers below 2^53 without error.
    """

    directions: Float[Tensor, "compress vector"]
    mean: Float[Tensor, " vector"]
    scale: float

    @classmethod
    def of(
        cls, components: Float[Tensor, "compress vector"], mean: Float[Tensor, " vector"], largest_norm: float
    ) -> "ExactProjection":
        """For orthonormal `components`, and vectors whose distance from `mean` is at most `largest_norm`.

        Longer vectors are projected as well, but their last bits may depend on the order of the sums.
        """
        return cls.scaled(components, mean, 2.0 ** (VECTOR_BITS - math.ceil(math.log2(largest_norm))))

    @classmethod
    def scaled(
        cls, components: Float[Tensor, "compress vector"], mean: Float[Tensor, " vector"], scale: float
    ) -> "ExactProjection":
        """The one that has this `scale`, a power of two."""
        return cls((components.double() * 2**FRACTION_BITS).round(), mean, scale)

    def __call__(self, vectors: Float[Tensor, "n vector"]) -> Float[Tensor, "n compress"]:
        """Latents of `vectors`, in float64."""
        whole = ((vectors - self.mean).double() * self.scale).round()
        return whole @ self.directions.T / (2**FRACTION_BITS * self.scale)
