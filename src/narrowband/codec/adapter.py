"""The fitted part of the decoder: from latents back to token embeddings."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from narrowband.codec.detectors import Detectors, Sample
from narrowband.codec.pca import PCA
from narrowband.params import Adapter as AdapterParams


class Shape(NamedTuple):
    """Tokens per window, and hidden size."""

    window: int
    hidden: int


class Sent(NamedTuple):
    """Latents as they are received, which places of their windows hold tokens, and those tokens: ids and what is to be rebuilt.

    `originals` are embeddings or states, over the codec's scale, which is applied afterwards.
    """

    latents: Float[Tensor, "n compress"]
    places: Bool[Tensor, "n window"]
    ids: Int[Tensor, " tokens"]
    originals: Float[Tensor, "tokens hidden"]


class ResidualAdapter(nn.Module):
    """The exact PCA inverse, the detectors' additions, then a residual MLP on each token whose last layer starts at zero.

    So before `fit` and training the output is the PCA reconstruction. The MLP reads the layer-normalised sums of inverse and
    additions of the token and of its two neighbours in the window, and has a bias for each position in the window; detectors
    and MLP work in units of the embeddings' RMS. The norm is there because PCA shrinks rare tokens, the neighbours because PCA
    spreads part of a token to them.
    """

    rms: Tensor

    def __init__(self, pca: PCA, shape: Shape, params: AdapterParams) -> None:
        super().__init__()
        self.pca, self.shape = pca, shape
        width = params.hidden_mult * shape.hidden
        self.register_buffer("rms", ((pca.total_variance + pca.mean.square().sum()) / pca.mean.numel()).sqrt())
        self.detectors = Detectors(shape.hidden, params.detectors)
        self.norm = nn.LayerNorm(shape.hidden)
        self.shifts = (0, 1, 2) if shape.window > 1 else (1,)
        self.enter = nn.Linear(len(self.shifts) * shape.hidden, width)
        self.place = nn.Parameter(torch.zeros(shape.window, width))
        self.between = nn.Linear(width, width)
        self.dropout = nn.Dropout(params.dropout)
        self.leave = nn.Linear(width, shape.hidden)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, latents: Float[Tensor, "n compress"]) -> Float[Tensor, "n vector"]:
        """Reconstructed windows."""
        base = self.pca.decode(latents).view(-1, *self.shape)  # [n, window, hidden]
        base = base + self.detectors(self._read(base)) * self.rms
        inner = nn.functional.gelu(self.enter(self._with_neighbours(self.norm(base / self.rms))) + self.place)
        inner = inner + nn.functional.gelu(self.between(inner))
        return (base + self.leave(self.dropout(inner)) * self.rms).flatten(1)

    def fit(self, batches: Callable[[], Iterable[Sent]], tokens: Int[Tensor, " n"]) -> None:
        """Fit the detectors to training tokens; `tokens` lists them, most frequent first, `batches` are the same at each call."""
        if len(self.detectors):
            self.detectors.fit(lambda: map(self._sample, batches()), tokens)

    def _sample(self, sent: Sent) -> Sample:
        base = self.pca.decode(sent.latents).view(-1, *self.shape)[sent.places]  # [tokens, hidden]
        rms = sent.originals.square().mean(-1, keepdim=True).sqrt()
        return Sample(sent.ids, self._read(base), (sent.originals - base) / self.rms, rms / self.rms)

    def _read(self, base: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens hidden"]:
        """What the detectors read: embeddings that are centred and scaled to RMS 1."""
        return nn.functional.layer_norm(base / self.rms, (self.shape.hidden,))

    def _with_neighbours(self, tokens: Float[Tensor, "n window hidden"]) -> Float[Tensor, "n window inputs"]:
        """Each token concatenated with its neighbours; zeros beyond the ends of the window."""
        padded = nn.functional.pad(tokens, (0, 0, 1, 1))
        return torch.cat([padded[:, shift : shift + self.shape.window] for shift in self.shifts], -1)


class LayerNormAdapter(nn.Module):
    """The original run's adapter: an MLP from the latents whose output passes a LayerNorm.

    Every token it returns has RMS 1, whatever the originals have: the fault of the original run, kept to reproduce it.
    """

    scale: Tensor

    def __init__(self, pca: PCA, shape: Shape, params: AdapterParams) -> None:
        super().__init__()
        self.shape = shape
        compress, vector = pca.components.shape
        width = params.hidden_mult * compress
        self.register_buffer("scale", pca.explained_variance.mean().sqrt().clamp(min=1e-12))
        self.mlp = nn.Sequential(
            nn.Linear(compress, width), nn.GELU(), nn.Dropout(params.dropout), nn.Linear(width, vector)
        )
        self.norm = nn.LayerNorm(shape.hidden, elementwise_affine=False)

    def forward(self, latents: Float[Tensor, "n compress"]) -> Float[Tensor, "n vector"]:
        """Reconstructed windows."""
        tokens = self.mlp(latents / self.scale).view(-1, *self.shape)
        normed: Tensor = self.norm(tokens.float())  # without a scale, the originals are lost in bfloat16's rounding
        return normed.flatten(1)


@runtime_checkable
class ClosedForm(Protocol):
    """An adapter that is fitted in closed form before it is trained."""

    def fit(self, batches: Callable[[], Iterable[Sent]], tokens: Int[Tensor, " n"]) -> None:
        """Fit it to training tokens; `tokens` lists them, most frequent first, `batches` are the same at each call."""


ADAPTERS: dict[str, Callable[[PCA, Shape, AdapterParams], nn.Module]] = {
    "residual": ResidualAdapter,
    "layernorm": LayerNormAdapter,
}
"""The adapters by `adapter.kind`."""


def make_adapter(pca: PCA, shape: Shape, params: AdapterParams) -> nn.Module:
    """The adapter that `params.kind` names."""
    return ADAPTERS[params.kind](pca, shape, params)
