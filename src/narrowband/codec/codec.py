"""The whole path of a prompt: embeddings -> windows -> PCA -> latents -> adapter -> magnitude -> embeddings."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from narrowband.codec.adapter import Shape, make_adapter
from narrowband.codec.geometry import geometry
from narrowband.codec.magnitude import restore, side_information_bits
from narrowband.codec.pca import PCA
from narrowband.codec.quantize import quantize
from narrowband.codec.windows import cut, join, positions
from narrowband.params import Params
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import digest, write_tensors

FILE = "adapter.safetensors"


class Codec(nn.Module):
    """PCA with an adapter (`pca_only=False`) or with its own inverse (`pca_only=True`); only the adapter has gradients."""

    scale: Tensor

    def __init__(self, pca: PCA, hidden_size: int, params: Params, *, pca_only: bool = False) -> None:
        super().__init__()
        self.pca, self.window = pca, params.window
        self.latent_bits, self.magnitude = params.latent_bits, params.magnitude
        self.dropout = params.adapter.dropout
        self.adapter = None
        if not pca_only:
            with torch.random.fork_rng():
                torch.manual_seed(params.seed)
                self.adapter = make_adapter(pca, Shape(params.window, hidden_size), params.adapter)
        self.register_buffer("scale", torch.ones(()))
        self.to(pca.mean.device).eval()

    def forward(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by their reconstruction."""
        coded = coded.to(embeddings.device)
        return restore(self._reconstruct(embeddings, coded), embeddings, coded, self.magnitude, self.scale)

    @property
    def takes_tokens_alone(self) -> bool:
        """Whether a token's reconstruction depends on that token and nothing else: once is enough for all its positions."""
        return self.window == 1 and self.magnitude != "example" and not (self.training and self.dropout)

    def tokens(self, embeddings: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
        """Reconstructions of tokens that the codec takes alone."""
        return self(embeddings[None], torch.ones(1, len(embeddings), dtype=torch.bool))[0]

    def _reconstruct(self, embeddings: Tensor, coded: Tensor) -> Tensor:
        latents = self.pca.encode(cut(embeddings, coded, self.window))
        latents = quantize(latents, self.pca.explained_variance, self.latent_bits)
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
        latents = n_windows * len(self.pca.components) * self.latent_bits
        return latents + side_information_bits(coded, self.magnitude)

    def save(self, folder: Path, params: Params, training: Mapping[str, Any]) -> None:
        """Write the trained tensors as `adapter.safetensors`; `config.json` says how, in the words of `training` too."""
        write_tensors(folder / FILE, self.state_dict())
        others = params.model_dump(include={"base_model", "seed", "latent_bits", "prompt"})
        write_config(folder, {**_fit(params, self.pca), **others, **training})

    @classmethod
    def load(cls, folder: Path, pca: PCA, hidden_size: int, params: Params) -> "Codec":
        """Read what `save` wrote.

        Raises:
            InputError: it is not there, was changed, or was made for another base model, PCA or codec.
        """
        read_config(folder, _fit(params, pca))
        codec = cls(pca, hidden_size, params)
        codec.load_state_dict(load_file(checked(folder / FILE)))
        return codec


def _fit(params: Params, pca: PCA) -> dict[str, Any]:
    """What an adapter can only be used with; its latents may be rounded to fewer bits than it was trained with."""
    settings = params.model_dump(include={"magnitude", "adapter"})
    return {**geometry(params), **settings, "pca": digest(pca.tensors)}
