"""How hard token embeddings are to compress: the share of their variance in the leading principal components."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from narrowband.data.encoded import EncodedPrompt
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError

SPECTRUM_RATIOS = (2, 4, 8, 16, 32, 64)
"""Compression ratios at which a spectrum is evaluated."""


def variance_shares(embedding_table: Float[Tensor, "n hidden"], counts: Int[Tensor, " n"]) -> dict[int, float]:
    """Share of the total variance (0 to 1) that PCA keeps with `hidden // ratio` numbers a token, by compression ratio.

    Row i counts `counts[i]` times; the covariance is taken in float64. Ratios above `hidden` are left out: they would
    keep less than one component.

    Raises:
        InputError: all tokens have the same embedding, so there is no variance to share.
    """
    weights = counts.double() / counts.sum()  # [n]
    table = embedding_table.double()
    centred = (table - weights @ table) * weights.sqrt()[:, None]  # [n, hidden]
    variances = torch.linalg.eigvalsh(centred.T @ centred).flip(0).clamp(min=0)  # [hidden], largest first
    total = float(variances.sum())
    if not total:
        raise InputError(
            "the prompts hold one distinct embedding, which has no variance; give prompts with more tokens"
        )
    hidden = table.shape[1]
    return {ratio: float(variances[: hidden // ratio].sum()) / total for ratio in SPECTRUM_RATIOS if ratio <= hidden}


def prompt_spectrum(lm: FrozenLM, prompts: Sequence[EncodedPrompt]) -> dict[int, float]:
    """`variance_shares` of all tokens of `prompts`, whether they pass through the codec or not."""
    counts = Counter(token for prompt in prompts for token in prompt.ids)
    ids = torch.tensor(list(counts))  # [n]
    return variance_shares(lm.embed(ids).cpu(), torch.tensor(list(counts.values())))
