"""Rounding latents to the number of bits they are sent with."""

import torch
from jaxtyping import Float
from torch import Tensor

FLOAT16_BITS = 16
"""Bits of a number that is sent as float16."""

RANGE = 4.0
"""Latents are clipped at this many standard deviations when they are sent with fewer than 16 bits."""


def float16(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`values` as they arrive if they are sent as float16; those beyond its range as its largest, 65,504."""
    most = torch.finfo(torch.float16).max
    return values.clamp(-most, most).half().float()


def quantize(
    latents: Float[Tensor, "n compress"], variance: Float[Tensor, " compress"], bits: int
) -> Float[Tensor, "n compress"]:
    """Latents after rounding to `bits` each: float32 at 32, float16 at 16, below that a uniform grid.

    The grid has 2^bits cells over +-4 standard deviations of each component, and reads back cell centres.
    """
    if bits == 32:
        return latents
    if bits == FLOAT16_BITS:
        return float16(latents)
    cell = 2 * RANGE * variance.sqrt().clamp(min=1e-12) / 2**bits
    half = 2 ** (bits - 1)
    return (torch.floor(latents / cell).clamp(-half, half - 1) + 0.5) * cell
