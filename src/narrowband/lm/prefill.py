"""Key-value caches of what the prompts of a batch begin with, which the model reads before their remaining tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from narrowband.lm.prefix import Beginnings, shareable
from narrowband.lm.rows import KnownTokens

if TYPE_CHECKING:
    from narrowband.lm.frozen import FrozenLM


def continues(lm: "FrozenLM", ids: Sequence[int]) -> bool:
    """Whether the model can continue from cached keys and values of `ids` (tested once); never with sender blocks."""
    if lm.sender_blocks:
        return False
    asked = tuple(ids)
    if asked not in lm.continued:
        lm.continued[asked] = lm.batchable and shareable(lm, asked) is not None
    return lm.continued[asked]


def prefix_cache(
    lm: "FrozenLM", mask: Bool[Tensor, "batch seq"], shared: tuple[int, ...], kind: type[DynamicLayer]
) -> DynamicCache | None:
    """Key-value cache of the first columns of left-padded rows that begin with `shared`; `None` if the model can't use it."""
    if not shared or not lm.batchable:
        return None
    if lm.prefix[0] != shared:
        lm.prefix = shared, shareable(lm, shared)
    prefix = lm.prefix[1]
    return prefix.cache(mask, kind) if prefix else None


def prefill(
    lm: "FrozenLM", embeddings: Float[Tensor, "batch seq hidden"], mask: Bool[Tensor, "batch seq"], known: KnownTokens
) -> DynamicCache | None:
    """As `prefix_cache`; what rows of the same number in `known.alike` begin with is read once, too."""
    shared, alike = known.shared, known.alike
    if len(set(alike)) == len(alike):
        return prefix_cache(lm, mask, shared, DynamicLayer)
    beginnings = Beginnings.of(embeddings, mask, alike)
    columns = beginnings.places.shape[1]
    if columns <= len(shared):
        return prefix_cache(lm, mask, shared, DynamicLayer)
    leading, real = embeddings[beginnings.leaders, :columns], mask[beginnings.leaders, :columns]
    cache = prefix_cache(lm, real, shared, DynamicLayer)
    cache = DynamicCache() if cache is None else cache
    lm.forward(leading, real, 1, cache)
    return beginnings.spread(cache)
