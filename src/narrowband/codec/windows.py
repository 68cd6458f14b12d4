"""Cutting token embeddings into windows and joining them again, so that no window padding reaches the language model."""

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor


def cut(
    embeddings: Num[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"], window: int
) -> Num[Tensor, "windows vector"]:
    """Flatten each row's coded tokens, `window` at a time from the first one, into vectors of `window * hidden`.

    A row's last window is padded with zeros; each row has `ceil(coded / window)` windows, in the order of the rows.
    """
    if window == 1:
        return embeddings[coded]
    hidden = embeddings.shape[-1]
    slots = _slots(coded, window)
    n_windows = _row_windows(coded, window).sum().item()
    tokens = embeddings.new_zeros(int(n_windows) * window, hidden)
    return tokens.index_copy(0, slots, embeddings[coded]).view(-1, window * hidden)


def join(
    vectors: Float[Tensor, "windows vector"],
    embeddings: Float[Tensor, "batch seq hidden"],
    coded: Bool[Tensor, "batch seq"],
    window: int,
) -> Float[Tensor, "batch seq hidden"]:
    """Undo `cut`: `embeddings` with its coded tokens replaced by those in `vectors`; padding is dropped."""
    return with_tokens(embeddings, coded, vectors.reshape(-1, embeddings.shape[-1])[_slots(coded, window)])


def with_tokens(
    embeddings: Float[Tensor, "batch seq hidden"],
    coded: Bool[Tensor, "batch seq"],
    tokens: Float[Tensor, "coded hidden"],
) -> Float[Tensor, "batch seq hidden"]:
    """`embeddings` with its coded tokens replaced by `tokens`, row by row."""
    return embeddings.index_put((coded.to(embeddings.device),), tokens.to(embeddings.dtype))


def token_places(coded: Bool[Tensor, "batch seq"], window: int) -> Bool[Tensor, "windows window"]:
    """Which places in the windows of `cut` hold a token, not padding."""
    filled = torch.zeros(int(_row_windows(coded, window).sum()) * window, dtype=torch.bool, device=coded.device)
    filled[_slots(coded, window)] = True
    return filled.view(-1, window)


def _row_windows(coded: Tensor, window: int) -> Tensor:
    return (coded.sum(-1) + window - 1) // window  # [batch]


def _slots(coded: Tensor, window: int) -> Tensor:
    """Index of each coded token, in row-major order, among the places of all windows: [coded tokens]."""
    starts = torch.cumsum(_row_windows(coded, window), 0).roll(1) * window
    starts[0] = 0
    within = coded.long().cumsum(-1) - 1  # [batch, seq]
    return (starts[:, None] + within)[coded]
