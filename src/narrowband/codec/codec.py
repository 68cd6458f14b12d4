"""The whole path of a prompt: embeddings -> windows -> PCA -> latents -> adapter -> magnitude -> embeddings."""

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from narrowband.codec.adapter import Shape, make_adapter
from narrowband.codec.config import CodecConfig
from narrowband.codec.magnitude import restore, side_information_bits
from narrowband.codec.pca import PCA
from narrowband.codec.quantize import quantize
from narrowband.codec.windows import cut, join, positions
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import digest, write_tensors

FILE = "adapter.safetensors"
PCA_PREFIX = "pca."


class Codec(nn.Module):
    """PCA with an adapter, or with its own inverse if `pca_only`; only the adapter has gradients.

    `seed` draws the adapter's starting weights.
    """

    scale: Tensor

    def __init__(self, pca: PCA, config: CodecConfig, *, seed: int = 0, pca_only: bool = False) -> None:
        super().__init__()
        self.pca, self.config, self.window = pca, config, config.window
        self.adapter = None
        if not pca_only:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                shape = Shape(config.window, pca.vector_dim // config.window)
                self.adapter = make_adapter(pca, shape, config.adapter)
        self.register_buffer("scale", torch.ones(()))
        self.to(pca.mean.device).eval()

    @property
    def compression_ratio(self) -> float:
        """Numbers of a window of embeddings over numbers sent for it."""
        return self.pca.vector_dim / len(self.pca.components)

    def with_latent_bits(self, bits: int) -> "Codec":
        """The same codec, weights shared, with its latents rounded to `bits` each."""
        other = copy(self)
        other.config = replace(self.config, latent_bits=bits)
        return other

    def forward(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by their reconstruction."""
        coded = coded.to(embeddings.device)
        return restore(self._reconstruct(embeddings, coded), embeddings, coded, self.config.magnitude, self.scale)

    @property
    def takes_tokens_alone(self) -> bool:
        """Whether a token's reconstruction depends on that token and nothing else: once is enough for all its positions."""
        return (
            self.window == 1
            and self.config.magnitude != "example"
            and not (self.training and self.config.adapter.dropout)
        )

    def tokens(self, embeddings: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
        """Reconstructions of tokens that the codec takes alone."""
        return self(embeddings[None], torch.ones(1, len(embeddings), dtype=torch.bool))[0]

    def _reconstruct(self, embeddings: Tensor, coded: Tensor) -> Tensor:
        latents = self.pca.encode(cut(embeddings, coded, self.window))
        latents = quantize(latents, self.pca.explained_variance, self.config.latent_bits)
        vectors = self.adapter(latents) if self.adapter else self.pca.decode(latents)
        return join(vectors, embeddings, coded, self.window)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Float[Tensor, "_ _ hidden"], Bool[Tensor, "_ _"]]]) -> None:
        """Fit the one scale of `calibrated`: RMS of the originals over RMS of the reconstructions on training data."""
        wanted = found = 0.0
        for embeddings, coded in batches:
            wanted += float(embeddings[coded].square().sum())
            found += float(self._reconstruct(embeddings, coded.to(embeddings.device))[coded].square().sum())
        self.scale.fill_((wanted / max(found, 1e-12)) ** 0.5)

    def bits(self, coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs: latents of all its windows, the filled-up ones too, and side information."""
        n_windows = len(positions(coded, self.window))
        latents = n_windows * len(self.pca.components) * self.config.latent_bits
        return latents + side_information_bits(coded, self.config.magnitude)

    def save(self, folder: Path, trained_with: Mapping[str, Any]) -> None:
        """Write weights and PCA as `adapter.safetensors`; `config.json` has the settings, and `trained_with` as well."""
        tensors = {f"{PCA_PREFIX}{name}": tensor for name, tensor in self.pca.tensors.items()}
        write_tensors(folder / FILE, {**self.state_dict(), **tensors})
        write_config(folder, {**self.config.as_json(), "pca": digest(self.pca.tensors), **trained_with})

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "Codec":
        """Read what `save` wrote; nothing else is needed.

        Raises:
            InputError: it is not there, or was changed.
        """
        folder = Path(folder)
        config = CodecConfig.read(folder)
        tensors = load_file(checked(folder / FILE))
        names = [name for name in tensors if name.startswith(PCA_PREFIX)]
        pca = PCA(**{name.removeprefix(PCA_PREFIX): tensors.pop(name) for name in names})
        codec = cls(pca.to(torch.device(device)), config)
        codec.load_state_dict(tensors)
        return codec


def require_match(folder: Path, config: CodecConfig, pca: PCA) -> Path:
    """Return `folder` after checking that the codec in it was made with `config` and `pca`.

    Raises:
        InputError: it was made for another base model, PCA, window, compress_dim, magnitude or adapter.
    """
    read_config(folder, {**config.fixed, "pca": digest(pca.tensors)})
    return folder
