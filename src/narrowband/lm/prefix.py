"""Keys and values of what prompts begin with, computed once: of worked examples for all batches, of a context for its questions."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from narrowband.lm.probe import continues_alike
from narrowband.runtime.entry import console

if TYPE_CHECKING:
    from narrowband.lm.frozen import FrozenLM


class FixedLayer(DynamicLayer):
    """A cache layer that is never extended, so that a block recomputed in the backward pass finds the same keys and values."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """The cached keys and values, followed by those of the current tokens."""
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


class Prefix(NamedTuple):
    """Keys and values of each layer for the shared first tokens, computed alone and without padding."""

    layers: list[tuple[Float[Tensor, "1 heads length dim"], Float[Tensor, "1 heads length dim"]]]

    @classmethod
    @torch.no_grad()
    def read(cls, lm: "FrozenLM", ids: Sequence[int]) -> "Prefix":
        """Run the model over `ids` once; layers with a sliding window keep all tokens, too."""
        cache = DynamicCache()
        embeddings = lm.embed(torch.tensor([list(ids)])).to(lm.model.dtype)
        lm.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = cache.layers  # other kinds of layers if the model can't share a prefix
        return cls([(layer.keys, layer.values) for layer in layers])

    def cache(self, mask: Bool[Tensor, "batch seq"], kind: type[DynamicLayer]) -> DynamicCache:
        """The key-value cache of the first columns, as many as the prefix has tokens, of left-padded rows that begin with it.

        In each row these columns hold the padding, then as many of the tokens as fit; the model reads the remaining ones again,
        with the rest of the row. So positions and sliding windows are those of whole rows.
        """
        length = self.layers[0][0].shape[-2]
        padding = mask.shape[-1] - mask.sum(-1, keepdim=True)
        places = (torch.arange(length, device=mask.device) - padding).clamp(min=0)  # [batch, length]
        only = torch.zeros_like(places[:, :1])
        cache = DynamicCache()
        for keys, values in self.layers:
            layer = kind()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = _placed(keys, only, places), _placed(values, only, places)
            cache.layers.append(layer)
        return cache


class Beginnings(NamedTuple):
    """How the rows of a left-padded batch begin: each as its leader does, in all of the first columns.

    Row r begins as row `leaders[which[r]]` does: its column c is that row's column `places[r, c]` (any, where r has padding).
    """

    leaders: list[int]
    which: Int[Tensor, "batch 1"]
    places: Int[Tensor, "batch columns"]

    @classmethod
    def of(
        cls, embeddings: Float[Tensor, "batch seq hidden"], mask: Bool[Tensor, "batch seq"], alike: Sequence[int]
    ) -> "Beginnings":
        """The longest row of each number in `alike` leads the rows of that number.

        There are as many columns as no row differs in from its leader, and at least one more follows.
        """
        padding = (mask.shape[-1] - mask.sum(-1)).tolist()
        first: dict[int, int] = {}
        for row in sorted(range(len(alike)), key=lambda row: padding[row]):
            first.setdefault(alike[row], row)
        leaders = list(first.values())
        shifts = [padding[first[number]] - padding[row] for row, number in enumerate(alike)]
        columns = min(
            padding[row]
            + _in_common(embeddings[row, padding[row] : -1], embeddings[first[number], padding[first[number]] :])
            for row, number in enumerate(alike)
        )
        device = embeddings.device
        which = torch.tensor([[leaders.index(first[number])] for number in alike], device=device)
        places = (torch.arange(columns, device=device) + torch.tensor(shifts, device=device)[:, None]).clamp(min=0)
        return cls(leaders, which, places)

    def spread(self, cache: DynamicCache) -> DynamicCache:
        """Turn a key-value cache of the leaders' first columns into that of all rows' first columns."""
        for layer in cast(list[DynamicLayer], cache.layers):
            layer.keys, layer.values = (
                _placed(cast(Tensor, tokens), self.which, self.places) for tokens in (layer.keys, layer.values)
            )
        return cache


def _in_common(tokens: Float[Tensor, "n hidden"], others: Float[Tensor, "m hidden"]) -> int:
    """How many first tokens are the same; there are no more of `tokens` than of `others`."""
    same = (tokens == others[: len(tokens)]).all(-1)
    return int(same.long().cumprod(0).sum())


def _placed(
    tokens: Float[Tensor, "rows heads length dim"], which: Int[Tensor, "batch 1"], places: Int[Tensor, "batch columns"]
) -> Float[Tensor, "batch heads columns dim"]:
    """The keys or values that stand in row `which` at `places`."""
    return tokens.transpose(1, 2)[which, places].transpose(1, 2)


def shareable(lm: "FrozenLM", ids: Sequence[int]) -> Prefix | None:
    """The prefix `ids` if, in a test, the model answers the same with it as with whole prompts; otherwise `None`.

    A model whose state is not keys and values (a recurrent one) reads whole prompts instead. Mixed precision is left off here: its
    rounding errors are larger than the test's tolerance.
    """
    # Any exception is suppressed, from a model's own code.
    with contextlib.suppress(Exception), torch.autocast(lm.device.type, enabled=False):
        prefix = Prefix.read(lm, ids)
        if continues_alike(lm, ids, lambda mask: prefix.cache(mask, DynamicLayer)):
            return prefix
    console.print(
        "the base model can't go on from what prompts share; it reads that again with every prompt, which is slower",
        style="yellow",
        soft_wrap=True,
    )
    return None
