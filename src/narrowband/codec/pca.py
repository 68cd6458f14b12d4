"""Principal component analysis of windows of token embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from narrowband.artifacts import checked, geometry, read_config, write_config
from narrowband.codec.moments import Moments
from narrowband.files import write_tensors
from narrowband.params import InputError, Params

FILE = "pca.safetensors"

BLOCK = 8192
"""Distinct vectors whose products are taken at a time."""


@dataclass(frozen=True)
class PCA:
    """Orthonormal components with the mean they were centred on; variances are per component, with n - 1 below."""

    components: Float[Tensor, "compress vector"]
    mean: Float[Tensor, " vector"]
    explained_variance: Float[Tensor, " compress"]
    total_variance: Float[Tensor, " 1"]

    @classmethod
    def fit(cls, batches: Iterable[Float[Tensor, "_ vector"]], compress_dim: int) -> "PCA":
        """Fit in one pass over batches of any number, in memory that does not grow with it.

        Raises:
            InputError: no more vectors than components, of which the surplus would be arbitrary.
        """
        moments = Moments()
        for batch in batches:
            moments.add(batch)
        return cls._from_moments(moments, compress_dim)

    @classmethod
    def fit_counted(cls, vectors: Float[Tensor, "n vector"], counts: Int[Tensor, " n"], compress_dim: int) -> "PCA":
        """Fit to `vectors` of which each occurs as often as `counts` says: what `fit` makes of all occurrences.

        Raises:
            InputError: no more occurrences than components.
        """
        moments = Moments()
        for block, occurrences in zip(vectors.split(BLOCK), counts.split(BLOCK), strict=True):
            moments.add(block, occurrences)
        return cls._from_moments(moments, compress_dim)

    @classmethod
    def _from_moments(cls, moments: Moments, compress_dim: int) -> "PCA":
        """The leading eigenvectors of the covariance.

        Each component's sign makes its largest entry positive, as in scikit-learn, so that a fit is reproducible.
        """
        if moments.count <= compress_dim:
            raise InputError(
                f"compress_dim {compress_dim} needs more than {compress_dim} training windows but there are "
                f"{moments.count}; raise data.train or lower compress_dim"
            )
        covariance = moments.covariance()
        total_variance = covariance.diagonal().sum()
        width = len(covariance)
        values, vectors = scipy.linalg.eigh(
            covariance.numpy(), subset_by_index=(width - compress_dim, width - 1), overwrite_a=True, check_finite=False
        )
        components = np.ascontiguousarray(vectors[:, ::-1].T)
        signs = np.sign(components[np.arange(compress_dim), np.abs(components).argmax(1)])
        return cls(
            torch.from_numpy(components * signs[:, None]).float(),
            moments.mean().float(),
            torch.from_numpy(values[::-1].copy()).clamp(min=0).float(),
            total_variance.float().reshape(1),
        )

    @property
    def explained_share(self) -> float:
        """Variance the components explain, as a share of the *total* variance (0 to 1)."""
        return float(self.explained_variance.double().sum() / self.total_variance.double())

    def encode(self, vectors: Float[Tensor, "n vector"]) -> Float[Tensor, "n compress"]:
        """Latents of `vectors`."""
        return (vectors - self.mean) @ self.components.T

    def decode(self, latents: Float[Tensor, "n compress"]) -> Float[Tensor, "n vector"]:
        """The vectors that `latents` stand for: the exact inverse within the span of the components."""
        return latents @ self.components + self.mean

    def to(self, device: torch.device) -> "PCA":
        """The same on `device`."""
        return PCA(**{name: tensor.to(device) for name, tensor in self.tensors.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything by name."""
        return {
            "components": self.components,
            "mean": self.mean,
            "explained_variance": self.explained_variance,
            "total_variance": self.total_variance,
        }

    def save(self, folder: Path, params: Params) -> None:
        """Write `pca.safetensors` and `config.json`."""
        write_tensors(folder / FILE, self.tensors)
        write_config(
            folder, {"base_model": params.base_model, **geometry(params), "prompt": params.prompt.model_dump()}
        )

    @classmethod
    def load(cls, folder: Path, params: Params) -> "PCA":
        """Read what `save` wrote.

        Raises:
            InputError: it is not there, was changed, or was made for another base model, window or compress_dim.
        """
        read_config(folder, geometry(params))
        return cls(**load_file(checked(folder / FILE)))
