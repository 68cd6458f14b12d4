"""The whole path of a prompt: embeddings -> windows -> PCA -> latents -> adapter -> magnitude -> embeddings."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from narrowband.codec.adapter import Shape, make_adapter
from narrowband.codec.bitstream import Bitstream, Message
from narrowband.codec.coder import LatentCoder
from narrowband.codec.config import CodecConfig
from narrowband.codec.magnitude import restore_magnitude, side_information, side_values
from narrowband.codec.pca import PCA
from narrowband.codec.quantize import FLOAT16_BITS, quantize
from narrowband.codec.windows import cut, join, token_places
from narrowband.params import EMBEDDINGS, InputError
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import digest, write_tensors

FILE = "adapter.safetensors"
PCA_PREFIX = "pca."
CODER_PREFIX = "coder."


class Codec(nn.Module):
    """PCA with an adapter, or with its own inverse if `pca_only`; only the adapter has gradients.

    `seed` initialises the adapter. With a `coder`, latents are quantised by it and can be written as byte streams.
    """

    scale: Tensor

    def __init__(
        self,
        pca: PCA,
        config: CodecConfig,
        coder: LatentCoder | None = None,
        *,
        seed: int = 0,
        pca_only: bool = False,
    ) -> None:
        super().__init__()
        self.pca, self.config, self.coder, self.window = pca, config, coder, config.window
        self._known: tuple[list[int], Bitstream] | None = None
        self.adapter, self.associated = None, b""
        if not pca_only:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                shape = Shape(config.window, pca.vector_dim // config.window)
                self.adapter = make_adapter(pca, shape, config.adapter)
        self.register_buffer("scale", torch.ones(()))
        self.to(pca.mean.device).eval()

    @property
    def compression_ratio(self) -> float:
        """`vector_dim / compress_dim`."""
        return self.pca.vector_dim / len(self.pca.components)

    def with_rate(self, config: CodecConfig, coder: LatentCoder | None) -> "Codec":
        """A copy that shares the weights and codes latents and side information as `config` says, with `coder` if there is one."""
        other = copy(self)
        other.config = replace(
            self.config,
            latent_bits=config.latent_bits,
            latent_coding=config.latent_coding,
            magnitude=config.magnitude,
        )
        other.coder, other._known = coder, None
        return other

    def with_latent_bits(self, bits: int) -> "Codec":
        """A copy that shares the weights and rounds each latent to `bits` bits."""
        fixed = self.config.latent_coding.model_copy(update={"kind": "fixed"})
        return self.with_rate(replace(self.config, latent_bits=bits, latent_coding=fixed), None)

    def with_associated(self, data: bytes) -> "Codec":
        """A copy that shares the weights and reads only streams written with the same `data`, which is not sent."""
        other = copy(self)
        other.associated, other._known = data, None
        return other

    def forward(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens replaced by their reconstruction."""
        coded = coded.to(embeddings.device)
        reconstructed = self._reconstruct(embeddings, coded)
        return restore_magnitude(reconstructed, self._side(embeddings, coded), coded, self.config.magnitude, self.scale)

    @torch.no_grad()
    def encode(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> list[bytes]:
        """Encode the coded tokens of each row as a byte stream, which does not depend on batch or number of threads.

        Raises:
            InputError: `latent_coding.kind` is `fixed`, or a row has no coded tokens.
        """
        coded = coded.to(embeddings.device)
        stream, counts = self.bitstream, coded.sum(-1).tolist()
        symbols = self._coder.symbols(cut(embeddings, coded, self.window)).cpu()
        parts = symbols.split([-(-count // self.window) for count in counts])
        side = self._side(embeddings, coded).cpu()
        sides = side.split([side_values(stream.magnitude, count, 1) for count in counts])
        return [stream.pack(Message(*message)) for message in zip(parts, counts, sides, strict=True)]

    @torch.no_grad()
    def decode(self, streams: Sequence[bytes]) -> list[Float[Tensor, "tokens hidden"]]:
        """Reconstructed embeddings of each stream's tokens, as `forward` returns them.

        Raises:
            InputError: `latent_coding.kind` is `fixed`, or a stream is damaged or was written by another codec or with other
                associated data.
        """
        reader, device = self.bitstream, self.pca.mean.device
        messages = [reader.unpack(stream) for stream in streams]
        symbols = torch.cat([message.symbols for message in messages])
        first, places = _distinct(symbols)  # at window 1, tokens are repeated
        vectors = self._vectors(self._coder.latents(symbols[first].to(device)))[places]
        parts = vectors.split([len(message.symbols) for message in messages])
        return [self._tokens_of(*one) for one in zip(messages, parts, strict=True)]

    @property
    def bitstream(self) -> Bitstream:
        """The writer and reader of streams. Its id has a digest of all weights, computed again when they have changed.

        Raises:
            InputError: `latent_coding.kind` is `fixed`.
        """
        coder, state = self._coder, self.state_dict()
        versions = [tensor._version for tensor in state.values()]
        if not self._known or self._known[0] != versions:
            weights = digest({**state, **self._prefixed()}, f"{self.config.fixed} pca_only={self.adapter is None}")
            model, shared = coder.model.to(torch.device("cpu")), bytes.fromhex(weights) + self.associated
            self._known = versions, Bitstream(model, shared, self.window, self.config.magnitude)
        return self._known[1]

    @property
    def takes_tokens_alone(self) -> bool:
        """Whether a token's reconstruction depends on that token alone, so that each distinct token is computed once."""
        return (
            self.config.source == EMBEDDINGS
            and self.window == 1
            and self.config.magnitude != "example"
            and not (self.training and self.config.adapter.dropout)
        )

    def tokens(self, embeddings: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
        """Reconstruct tokens one by one; only for a codec that `takes_tokens_alone`."""
        return self(embeddings[None], torch.ones(1, len(embeddings), dtype=torch.bool))[0]

    def received(self, windows: Float[Tensor, "n vector"]) -> Float[Tensor, "n compress"]:
        """The latents of `windows` as the receiver gets them: quantised, in training as well.

        The PCA is fixed, so no gradient has to pass the rounding, and it needs neither a straight-through estimator nor its
        stand-in by additive uniform noise, which a trained encoder needs (Balle, Laparra and Simoncelli, End-to-end optimized
        image compression, ICLR 2017, arXiv:1611.01704).
        """
        if self.coder:
            return self.coder.latents(self.coder.symbols(windows))
        return quantize(self.pca.encode(windows), self.pca.explained_variance, self.config.latent_bits)

    def _reconstruct(self, embeddings: Tensor, coded: Tensor) -> Tensor:
        vectors = self._vectors(self.received(cut(embeddings, coded, self.window)))
        return join(vectors, embeddings, coded, self.window)

    def _tokens_of(self, message: Message, vectors: Tensor) -> Tensor:
        """The tokens of one prompt, from its windows: without padding, and with their magnitude restored."""
        tokens = vectors.reshape(-1, self.pca.vector_dim // self.window)[None, : message.n_tokens]
        coded = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        side = message.side.to(tokens.device)
        return restore_magnitude(tokens, side, coded, self.config.magnitude, self.scale)[0]

    def _vectors(self, latents: Tensor) -> Tensor:
        """Reconstructed windows."""
        vectors: Tensor = self.adapter(latents) if self.adapter else self.pca.decode(latents)
        return vectors

    def _side(self, embeddings: Tensor, coded: Tensor) -> Tensor:
        """Side information; in float64 if it is written to a stream, so that it does not depend on the order of sums."""
        return side_information(embeddings.double() if self.coder else embeddings, coded, self.config.magnitude)

    @property
    def _coder(self) -> LatentCoder:
        if self.coder is None:
            raise InputError(
                "latent_coding.kind is fixed, which writes no streams; set it to entropy and run dvc repro"
            )
        return self.coder

    def _prefixed(self) -> dict[str, Tensor]:
        """PCA and coder as they are saved beside the weights."""
        parts = {PCA_PREFIX: self.pca.tensors, CODER_PREFIX: self.coder.tensors if self.coder else {}}
        return {f"{prefix}{name}": tensor for prefix, part in parts.items() for name, tensor in part.items()}

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Float[Tensor, "_ _ hidden"], Bool[Tensor, "_ _"]]]) -> None:
        """Fit the scale of `magnitude: calibrated`: RMS of originals over RMS of reconstructions, on training data."""
        wanted = found = 0.0
        for embeddings, coded in batches:
            wanted += float(embeddings[coded].square().sum())
            found += float(self._reconstruct(embeddings, coded.to(embeddings.device))[coded].square().sum())
        self.scale.fill_((wanted / max(found, 1e-12)) ** 0.5)

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits of a batch: of its streams, or of side information and the latents of all windows, zero-padded ones included."""
        if self.coder:
            return 8 * sum(map(len, self.encode(embeddings, coded)))
        n_windows = len(token_places(coded, self.window))
        latents = n_windows * len(self.pca.components) * self.config.latent_bits
        return latents + FLOAT16_BITS * side_values(self.config.magnitude, int(coded.sum()), int(coded.any(-1).sum()))

    def save(self, folder: Path, trained_with: Mapping[str, Any]) -> None:
        """Write weights, PCA and coder to `adapter.safetensors`, the settings and `trained_with` to `config.json`."""
        write_tensors(folder / FILE, {**self.state_dict(), **self._prefixed()})
        write_config(folder, {**self.config.as_json(), "pca": digest(self.pca.tensors), **trained_with})

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "Codec":
        """Load what `save` wrote; nothing else is needed.

        Raises:
            InputError: a file is missing, was changed, or was written by another version.
        """
        folder = Path(folder)
        config = CodecConfig.read(folder)
        tensors = load_file(checked(folder / FILE))
        pca = PCA(**_taken(tensors, PCA_PREFIX)).to(torch.device(device))
        parts = _taken(tensors, CODER_PREFIX)
        codec = cls(pca, config, LatentCoder.of(pca, parts) if parts else None)
        if set(tensors) != set(codec.state_dict()):
            raise InputError(f"{folder} was written by another version of narrowband; run dvc repro to make it again")
        codec.load_state_dict(tensors)
        return codec


def _distinct(rows: Int[Tensor, "n width"]) -> tuple[Int[Tensor, " distinct"], Int[Tensor, " n"]]:
    """Where each distinct row stands first, and the place of each row's in that list; `torch.unique` is much slower."""
    whole = rows.contiguous().numpy().view(f"S{rows.shape[1] * rows.element_size()}")[:, 0]
    _, first, places = np.unique(whole, return_index=True, return_inverse=True)
    return torch.from_numpy(first), torch.from_numpy(places)


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove and return the tensors whose names begin with `prefix`, under their names without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def require_match(folder: Path, config: CodecConfig, pca: PCA) -> Path:
    """Return `folder` after checking that the codec in it was made with `config` and `pca`.

    Raises:
        InputError: it was made for another base model, source, PCA, window, compress_dim, magnitude or adapter.
    """
    read_config(folder, {**config.fixed, "pca": digest(pca.tensors)})
    return folder
