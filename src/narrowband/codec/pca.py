"""Principal component analysis of windows of token embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from narrowband.codec.moments import window_moments
from narrowband.params import InputError
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import write_tensors

FILE = "pca.safetensors"


@dataclass(frozen=True)
class PCA:
    """Orthonormal components, the mean of the data, and variances (divided by n - 1)."""

    components: Float[Tensor, "compress vector"]
    mean: Float[Tensor, " vector"]
    explained_variance: Float[Tensor, " compress"]
    total_variance: Float[Tensor, " 1"]

    @classmethod
    def fit(
        cls,
        vectors: Float[Tensor, "n width"],
        compress_dim: int,
        windows: Int[Tensor, "count window"] | None = None,
    ) -> "PCA":
        """Fit to `windows`, given as row indices of `vectors`; by default each row is a window.

        Components are the leading eigenvectors of the covariance, with the sign that makes their largest entry positive, as in
        scikit-learn, so that a fit is reproducible.

        Raises:
            InputError: there are no more windows than components; surplus components would be arbitrary.
        """
        if windows is None:
            windows = torch.arange(len(vectors))[:, None]
        require_windows(compress_dim, len(windows))
        return cls.of_moments(*window_moments(vectors, windows), compress_dim)

    @classmethod
    def of_moments(
        cls, mean: Float[Tensor, " vector"], covariance: Float[Tensor, "vector vector"], compress_dim: int
    ) -> "PCA":
        """The leading components of data with that mean and covariance, in float64; `covariance` is overwritten."""
        total_variance = covariance.diagonal().sum()
        n = len(covariance)
        leading = {"subset_by_index": (n - compress_dim, n - 1)}
        options = leading if compress_dim <= n / 4 else {"driver": "evd"}  # which computes all, and is faster for many
        values, eigenvectors = scipy.linalg.eigh(covariance.T.numpy(), **options, overwrite_a=True, check_finite=False)
        values, components = values[-compress_dim:], np.ascontiguousarray(eigenvectors[:, : -compress_dim - 1 : -1].T)
        signs = np.sign(components[np.arange(compress_dim), np.abs(components).argmax(1)])
        return cls(
            torch.from_numpy(components * signs[:, None]).float(),
            mean.float(),
            torch.from_numpy(values[::-1].copy()).clamp(min=0).float(),
            total_variance.float().reshape(1),
        )

    @property
    def vector_dim(self) -> int:
        """Width of a flattened window."""
        return len(self.mean)

    @property
    def explained_share(self) -> float:
        """Variance that the components explain, as a share of the *total* variance (0 to 1)."""
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
        """All tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        """Write `pca.safetensors`, and `made_with` to `config.json`."""
        write_tensors(folder / FILE, self.tensors)
        write_config(folder, made_with)

    @classmethod
    def load(cls, folder: Path | str, expected: Mapping[str, Any] | None = None) -> "PCA":
        """Load what `save` wrote.

        Raises:
            InputError: a file is missing, was changed, or was made with other settings than `expected`.
        """
        folder = Path(folder)
        read_config(folder, expected)
        return cls(**load_file(checked(folder / FILE)))


def require_windows(compress_dim: int, count: int) -> None:
    """Raise an InputError if `count` training windows are too few to fit `compress_dim` components on."""
    if count <= compress_dim:
        raise InputError(
            f"compress_dim {compress_dim} needs more than {compress_dim} training windows but there are "
            f"{count}; raise data.train or lower compress_dim"
        )
