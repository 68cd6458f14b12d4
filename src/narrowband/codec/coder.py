"""From windows to integer symbols and back: the projection and the entropy model of one PCA at one rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from narrowband.codec.bitstream import STREAM_BITS
from narrowband.codec.config import CodecConfig
from narrowband.codec.entropy import EntropyModel
from narrowband.codec.exact import ExactProjection
from narrowband.codec.magnitude import side_values
from narrowband.codec.pca import PCA
from narrowband.codec.quantize import FLOAT16_BITS
from narrowband.params import InputError, LatentCoding, Magnitude
from narrowband.runtime.artifacts import checked, read_config
from narrowband.runtime.files import write_tensors

FILE = "coder.safetensors"
WINDOWS_AT_ONCE = 4096
"""Windows projected at once."""

MOST_WINDOWS = 2**17
"""Maximum number of training windows that a coder is fitted on; of more, an evenly spaced subset."""


class Rate(NamedTuple):
    """What a coder is fitted to: how latents are coded, what is sent beside them, and each training prompt's coded tokens."""

    coding: LatentCoding
    magnitude: Magnitude
    coded: Int[Tensor, " prompts"]

    def window_bits(self, n_windows: int) -> float:
        """Bits per window for latents, such that latents, side information and stream overhead cost `bits_per_token`.

        Raises:
            InputError: nothing is left for latents.
        """
        wanted, tokens = self.coding.bits_per_token, int(self.coded.sum())
        rest = STREAM_BITS * len(self.coded) + FLOAT16_BITS * side_values(self.magnitude, tokens, len(self.coded))
        if wanted * tokens <= rest:
            raise InputError(
                f"latent_coding.bits_per_token {wanted:g} leaves nothing for latents: the training prompts cost "
                f"{rest / tokens:.3g} bits a token without them; raise it"
            )
        return (wanted * tokens - rest) / n_windows


@dataclass(frozen=True)
class LatentCoder:
    """Quantises latents to integer multiples of a step, the same on every machine, and dequantises them."""

    model: EntropyModel
    project: ExactProjection

    @classmethod
    def fit(
        cls,
        pca: PCA,
        vectors: Float[Tensor, "n width"],
        windows: Int[Tensor, "count window"],
        rate: Rate,
    ) -> "LatentCoder":
        """Fit to training `windows`, given as row indices of `vectors`.

        Raises:
            InputError: no step meets `latent_coding.bits_per_token`; see `EntropyModel.fit`.
        """
        project = ExactProjection.of(pca.components, pca.mean, 2 * _largest_norm(vectors, pca, windows.shape[1]))
        kept = windows[:: -(-len(windows) // MOST_WINDOWS)]
        latents = torch.cat([project(vectors[block].flatten(1)) for block in kept.split(WINDOWS_AT_ONCE)])
        if step := rate.coding.step:
            return cls(EntropyModel.fit(latents, step), project)
        return cls(EntropyModel.fit_rate(latents, rate.window_bits(len(windows))), project)

    def symbols(self, vectors: Float[Tensor, "n vector"]) -> Int[Tensor, "n compress"]:
        """The symbols that are sent for `vectors`."""
        return self.model.quantize(self.project(vectors))

    def latents(self, symbols: Int[Tensor, "n compress"]) -> Float[Tensor, "n compress"]:
        """The latents that `symbols` stand for."""
        return self.model.dequantize(symbols)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, except those of the PCA."""
        return {**self.model.tensors, "scale": torch.tensor([self.project.scale], dtype=torch.float64)}

    @classmethod
    def of(cls, pca: PCA, tensors: Mapping[str, Tensor]) -> "LatentCoder":
        """The coder that has these `tensors`, on the device of `pca`."""
        model = EntropyModel(**{name: tensor for name, tensor in tensors.items() if name != "scale"})
        project = ExactProjection.scaled(pca.components, pca.mean, float(tensors["scale"]))
        return cls(model.to(pca.mean.device), project)

    def save(self, folder: Path) -> None:
        """Write `coder.safetensors` beside a PCA, before the PCA writes the checksums of its folder."""
        write_tensors(folder / FILE, self.tensors)

    @classmethod
    def load(cls, folder: Path, pca: PCA, config: CodecConfig) -> "LatentCoder | None":
        """The coder saved beside `pca`, on its device; `None` if `config` rounds latents to a fixed grid.

        Raises:
            InputError: the file is missing, was changed, or was made for another rate.
        """
        if config.latent_coding.kind == "fixed":
            return None
        read_config(folder, {"latent_coding": config.latent_coding.model_dump()})
        return cls.of(pca, load_file(checked(folder / FILE)))


def _largest_norm(vectors: Tensor, pca: PCA, window: int) -> float:
    """Upper bound on the distance from the mean of any window made of `vectors` and zeros."""
    means = pca.mean.view(window, -1).double()
    tokens = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])
    largest = [
        max(float((block.double() - mean).norm(dim=1).max()) for block in tokens.split(WINDOWS_AT_ONCE))
        for mean in means
    ]
    return math.hypot(*largest)
