"""The settings of a codec: written beside its weights, and compared with the workspace's before use."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from narrowband.lm.model_revision import model_revision
from narrowband.params import Adapter, LatentCoding, Magnitude, Params
from narrowband.runtime.artifacts import read_config


def geometry_of(params: Params) -> dict[str, Any]:
    """Settings that a PCA must match to be loaded, as `params.yaml` asks for them: `CodecConfig.geometry`."""
    revision = model_revision(params.base_model)
    return {
        "base_model_revision": revision,
        "source": params.source,
        "window": params.window,
        "compress_dim": params.compress_dim,
    }


@dataclass(frozen=True)
class CodecConfig:
    """Everything that determines what a codec does, except its weights."""

    base_model_revision: str
    source: str
    compress_dim: int
    window: int
    magnitude: Magnitude
    latent_bits: int
    latent_coding: LatentCoding
    adapter: Adapter

    @classmethod
    def of(cls, params: Params) -> "CodecConfig":
        """The settings that `params.yaml` asks for."""
        return cls(
            model_revision(params.base_model),
            params.source,
            params.compress_dim,
            params.window,
            params.magnitude,
            params.latent_bits,
            params.latent_coding,
            params.adapter,
        )

    @classmethod
    def read(cls, folder: Path) -> "CodecConfig":
        """The settings that `folder` was saved with.

        Raises:
            InputError: its `config.json` is missing or was changed.
        """
        content = read_config(folder)
        sections = {"latent_coding": LatentCoding(**content["latent_coding"]), "adapter": Adapter(**content["adapter"])}
        return cls(**{name: sections.get(name, content[name]) for name in cls.__dataclass_fields__})

    @property
    def geometry(self) -> dict[str, Any]:
        """Settings that a PCA must match to be loaded."""
        return {name: getattr(self, name) for name in ("base_model_revision", "source", "window", "compress_dim")}

    @property
    def fixed(self) -> dict[str, Any]:
        """Settings that an adapter must match to be loaded; its latents may be sent at another rate afterwards."""
        return {**self.geometry, "magnitude": self.magnitude, "adapter": self.adapter.model_dump()}

    def as_json(self) -> dict[str, Any]:
        """All settings, as `read` reads them."""
        sections = {"latent_coding": self.latent_coding.model_dump(), "adapter": self.adapter.model_dump()}
        return {**asdict(self), **sections}
