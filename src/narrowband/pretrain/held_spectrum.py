"""Makes embeddings of the bundled model as hard to compress as real ones, by holding their spectrum during training.

A spectrum set only at the start changes during training (docs/log.md), so it is restored every few steps.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

EXPONENT = 1.05
"""Variance of principal component i (1, 2, …) is proportional to i^-1.05.

With 256 components this keeps 0.90, 0.80, 0.70 and 0.59 of the variance in 1/2, 1/4, 1/8 and 1/16 of them. Gemma 3 270M and
SmolLM2 135M keep 0.90, 0.78, 0.69 and 0.60 in the mean (`narrowband spectrum`).
"""

HOLD_EVERY = 10
"""Steps of training between two calls of `hold_spectrum`."""


def token_counts(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " vocab"]:
    """How often each token occurs in `texts`."""
    encoded = tokenizer(list(texts), add_special_tokens=False).input_ids
    return torch.bincount(torch.tensor([token for ids in encoded for token in ids]), minlength=len(tokenizer))


@torch.no_grad()
def hold_spectrum(table: Float[Tensor, "vocab hidden"], counts: Int[Tensor, " vocab"]) -> None:
    """Change `table` as little as possible so that the variances of its principal components follow `EXPONENT`.

    Row i has the weight `counts[i]` in the mean and the covariance, which are computed in float64. Mean, principal axes and
    total variance do not change. All rows are multiplied by the same symmetric matrix, also those of weight 0.
    """
    weights = counts.to(table.device).double() / counts.sum()  # [vocab]
    exact = table.double()
    mean = weights @ exact
    centred = exact - mean
    weighted = centred * weights.sqrt()[:, None]
    variances, axes = torch.linalg.eigh(weighted.T @ weighted)  # ascending, [hidden] and [hidden, hidden]
    wanted = torch.arange(len(variances), 0, -1, device=table.device).double() ** -EXPONENT
    wanted *= variances.sum() / wanted.sum()
    stretch = (axes * (wanted / variances).sqrt()) @ axes.T
    table.copy_(mean + centred @ stretch)
