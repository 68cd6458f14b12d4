"""Keys and values of the tokens that every prompt begins with: computed once, used by every batch."""

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
    """The prefix `ids` if, in a test, the model answers the same with it as with whole prompts; otherwise `None`.

    A model whose state is not keys and values (a recurrent one) reads whole prompts instead.
    """
    with contextlib.suppress(Exception):  # any exception, from a model's own code
        prefix = Prefix.read(lm, ids)
        if continues_alike(lm, ids, lambda mask: prefix.cache(mask, DynamicLayer)):
            return prefix
    console.print(
        "[yellow]the base model can't go on from the worked examples; it reads them with every prompt, which is slower[/]",
        soft_wrap=True,
    )
    return None
