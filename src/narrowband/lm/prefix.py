"""The keys and values of tokens that every prompt begins with: computed once, read by every batch."""

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
    """A layer's keys and values that are read and never added to: a block that is computed twice finds the same."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """All keys and all values, those of the tokens now read included."""
        keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


class Prefix(NamedTuple):
    """Keys and values of each layer for the same first tokens, which stand alone and without padding."""

    layers: list[tuple[Float[Tensor, "1 heads length dim"], Float[Tensor, "1 heads length dim"]]]

    @classmethod
    @torch.no_grad()
    def read(cls, lm: "FrozenLM", ids: Sequence[int]) -> "Prefix":
        """Run the model over `ids` once. Of a layer with a sliding window, all tokens are kept, too."""
        cache = DynamicCache()
        embeddings = lm.embed(torch.tensor([list(ids)])).to(lm.model.dtype)
        lm.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: list[Any] = cache.layers  # of a model that can't share a prefix, layers of other kinds
        return cls([(layer.keys, layer.values) for layer in layers])

    def cache(self, mask: Bool[Tensor, "batch seq"], kind: type[DynamicLayer]) -> DynamicCache:
        """What the model would have kept of the first `length` columns of left-padded rows that begin with the tokens.

        These columns are a row's padding and then the tokens, as many as fit: the rest of them is read again, in columns
        that a shorter prompt would fill with padding. So positions and sliding windows are those of the whole rows.
        """
        length = self.layers[0][0].shape[-2]
        padding = mask.shape[-1] - mask.sum(-1, keepdim=True)
        places = (torch.arange(length, device=mask.device) - padding).clamp(min=0)  # [batch, length]
        cache = DynamicCache()
        for keys, values in self.layers:
            layer = kind()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = _placed(keys, places), _placed(values, places)
            cache.layers.append(layer)
        return cache


def _placed(
    tokens: Float[Tensor, "1 heads length dim"], places: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch heads length dim"]:
    return tokens[0][:, places].transpose(0, 1)


def shareable(lm: "FrozenLM", ids: Sequence[int]) -> Prefix | None:
    """The prefix `ids`, if the model answers after it as it does to whole prompts; found by asking it.

    A model that keeps something else than keys and values (a recurrent one) reads whole prompts instead.
    """
    with contextlib.suppress(Exception):  # of every kind, from a model's own code
        prefix = Prefix.read(lm, ids)
        if continues_alike(lm, ids, lambda mask: prefix.cache(mask, DynamicLayer)):
            return prefix
    console.print(
        "[yellow]the base model can't go on from the worked examples; it reads them with every prompt, which is slower[/]",
        soft_wrap=True,
    )
    return None
