"""Latents that are the same to the last bit whatever the batch, the number of threads or the machine."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

FRACTION_BITS = 24
"""Components are rounded to multiples of 2^-24, about the precision of float32."""

VECTOR_BITS = 28
"""Vectors are rounded to multiples of 2^-28 times the largest norm."""


@dataclass(frozen=True)
class ExactProjection:
    """Projection on a PCA's components in integers, so that the result does not depend on the order of sums.

    The last bits of a float32 product vary with batch and threads, so a latent halfway between two steps could be rounded
    either way. Here both factors are integers. By the Cauchy-Schwarz inequality no partial sum exceeds the product of their
    norms, which is at most 2^52, and float64 adds integers below 2^53 exactly.
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
        """The projection with the given `scale`, a power of two."""
        return cls((components.double() * 2**FRACTION_BITS).round(), mean, scale)

    def __call__(self, vectors: Float[Tensor, "n vector"]) -> Float[Tensor, "n compress"]:
        """Latents of `vectors`, in float64."""
        whole = (vectors - self.mean).double().mul_(self.scale).round_()
        return whole @ self.directions.T / (2**FRACTION_BITS * self.scale)
