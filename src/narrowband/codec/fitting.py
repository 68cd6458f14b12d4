"""What a codec has before it is trained, fitted on training prompts: the PCA, and the entropy coder of its latents.

Embeddings are a lookup, so distinct tokens are counted. States after a block depend on all tokens before them; the PCA adds
them up batch by batch, and the coder is fitted on those of an evenly spaced subset of prompts.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from narrowband.codec.coder import LatentCoder, Rate
from narrowband.codec.moments import streamed_moments, window_moments
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import check_windows, coded_lengths, embedded, token_windows
from narrowband.codec.windows import cut
from narrowband.data.encoded import EncodedPrompt
from narrowband.lm.frozen import FrozenLM
from narrowband.params import LatentCoding, Magnitude
from narrowband.runtime.progress import bar

BATCH = 32
"""Prompts that the sender's blocks are run on at a time."""

MOST_NUMBERS = 2**26
"""Maximum number of numbers in the states that a coder is fitted on: 256 MiB."""


def fit_pca(lm: FrozenLM, prompts: Sequence[EncodedPrompt], compress_dim: int, window: int) -> PCA:
    """The PCA of the windows of `prompts`.

    Raises:
        InputError: there are no more windows than components.
    """
    check_windows(prompts, window, compress_dim)
    return PCA.of_moments(*moments(lm, prompts, window), compress_dim)


def moments(
    lm: FrozenLM, prompts: Sequence[EncodedPrompt], window: int
) -> tuple[Float[Tensor, " vector"], Float[Tensor, "vector vector"]]:
    """Mean and covariance of the windows of `prompts`, in float64 on the CPU."""
    if not lm.sender_blocks:
        vectors, windows = token_windows(lm, prompts, window)
        with bar("covariance", window * (window + 1) // 2) as advance:
            return window_moments(vectors, windows, advance=advance)
    with bar("covariance", len(prompts)) as advance:
        return streamed_moments(state_windows(lm, prompts, window, advance))


def fit_coder(
    lm: FrozenLM, prompts: Sequence[EncodedPrompt], pca: PCA, coding: LatentCoding, magnitude: Magnitude
) -> LatentCoder:
    """The entropy coder of the latents of `prompts`, sent with `magnitude` beside them; `pca` is on the CPU.

    Raises:
        InputError: see `LatentCoder.fit`.
    """
    window = len(pca.mean) // lm.hidden_size
    if not lm.sender_blocks:
        rate = Rate(coding, magnitude, coded_lengths(prompts))
        return LatentCoder.fit(pca, *token_windows(lm, prompts, window), rate)
    numbers = int(coded_lengths(prompts).sum()) * lm.hidden_size
    kept = prompts[:: -(-numbers // MOST_NUMBERS)]
    windows = torch.cat(list(state_windows(lm, kept, window)))  # each a vector of its own
    rate = Rate(coding, magnitude, coded_lengths(kept))
    return LatentCoder.fit(pca, windows, torch.arange(len(windows))[:, None], rate)


def state_windows(
    lm: FrozenLM, prompts: Sequence[EncodedPrompt], window: int, advance: Callable[[int], None] = lambda n: None
) -> Iterator[Float[Tensor, "_ vector"]]:
    """The windows of states of `prompts`, batch by batch, on the CPU; `advance` is called after each batch."""
    for states, coded in embedded(lm, prompts, BATCH):
        yield cut(states, coded, window).cpu()
        advance(len(states))
