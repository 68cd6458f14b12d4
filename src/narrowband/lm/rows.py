"""Left-padded rows: how they are padded and taken apart, positions in them, and what is known of their tokens."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class KnownTokens(NamedTuple):
    """What is known of the tokens of rows that are given as embeddings.

    All rows begin with the tokens `shared`. Rows of the same number in `alike` have a context in common; all numbers differ
    if the model can't continue (see `prefill.continues`). `ids` are the tokens of all rows.
    """

    shared: tuple[int, ...] = ()
    alike: Sequence[int] = ()
    ids: Int[Tensor, "batch seq"] | None = None


UNKNOWN = KnownTokens()


def left_padded(rows: Sequence[Tensor], value: int = 0) -> tuple[Tensor, Bool[Tensor, "batch seq"]]:
    """Rows of ids or embeddings as a batch, filled up with `value` on the left, and its mask of what was not filled."""
    real = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in rows]
    mask = pad_sequence(real, batch_first=True, padding_side="left")
    return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side="left"), mask


def single_rows(padded: Tensor, mask: Bool[Tensor, "batch seq"]) -> Iterator[tuple[Tensor, Bool[Tensor, "1 length"]]]:
    """Each row of `padded`, ids or embeddings, by itself, without its padding, and its mask."""
    for row, real in zip(padded, mask, strict=True):
        yield row[real][None], real[real][None]


def ids_of_rows(ids: Int[Tensor, "batch seq"] | None, mask: Bool[Tensor, "batch seq"]) -> Sequence[Tensor | None]:
    """Each row of `ids` by itself, without its padding; `None` for every row if there are no `ids`."""
    return [None] * len(mask) if ids is None else [row for row, _ in single_rows(ids.to(mask.device), mask)]


def positions(mask: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Positions in each row, counted from its first real token."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
