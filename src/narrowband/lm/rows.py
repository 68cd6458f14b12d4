"""Left-padded rows: each by itself, and the positions of its tokens."""

from collections.abc import Iterator, Sequence

from jaxtyping import Bool, Int
from torch import Tensor


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
