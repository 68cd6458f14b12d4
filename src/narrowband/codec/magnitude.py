"""Restoring the magnitude of the originals, which the original run lacked: per token, per example, or by one scale."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from narrowband.codec.quantize import float16
from narrowband.params import Magnitude


def restore_magnitude(
    reconstructed: Float[Tensor, "batch seq hidden"],
    side: Float[Tensor, " values"],
    coded: Bool[Tensor, "batch seq"],
    mode: Magnitude,
    scale: Float[Tensor, ""],
) -> Float[Tensor, "batch seq hidden"]:
    """Scale the coded tokens to the RMS in `side`, per token or per example, or by the factor `scale`."""
    if mode == "none":
        return reconstructed
    if mode == "calibrated":
        factor = scale.expand(coded.shape)
    else:
        wanted = side[:, None] if mode == "example" else torch.zeros(coded.shape, device=coded.device)
        if mode == "token":
            wanted[coded] = side
        factor = wanted / mean_square(reconstructed, coded, mode).sqrt().clamp(min=1e-12)
    return torch.where(coded, factor, 1.0)[..., None] * reconstructed


def side_information(
    embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"], mode: Magnitude
) -> Float[Tensor, " values"]:
    """Side information of `mode`: RMS of each coded token or of each row, rounded to float16; or nothing."""
    if mode not in ("token", "example"):
        return embeddings.new_zeros(0, dtype=torch.float32)
    rms = mean_square(embeddings, coded, mode).sqrt()  # [batch, seq]
    return float16(rms[coded] if mode == "token" else rms[:, 0])


def mean_square(
    embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"], mode: Literal["token", "example"]
) -> Float[Tensor, "batch seq"]:
    """Mean square of each token, or of all coded tokens of its row, at every position."""
    squares = embeddings.square().mean(-1)
    if mode == "token":
        return squares
    return ((squares * coded).sum(-1, keepdim=True) / coded.sum(-1, keepdim=True).clamp(min=1)).expand(coded.shape)


def side_values(mode: Magnitude, tokens: int, prompts: int) -> int:
    """Number of values of side information for `prompts` prompts with `tokens` coded tokens in all."""
    return {"token": tokens, "example": prompts}.get(mode, 0)
