"""Left-padded rows: each by itself, the positions of its tokens, and what is known of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor


class KnownTokens(NamedTuple):
    """What is known of the tokens of rows that are given as embeddings.

    All rows begin with the tokens `shared`. Rows of the same number in `alike` have a context in common; it is empty unless the
    model continues (see `prefill.continues`). `ids` are the tokens of all rows.
    """

    shared: tuple[int, ...] = ()
    alike: Sequence[int] = ()
    ids: Int[Tensor, "batch seq"] | None = None


UNKNOWN = KnownTokens()


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
