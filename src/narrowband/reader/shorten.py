"""Replacing a context's tokens by fewer vectors without training: pooling, selecting or truncating."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from narrowband.codec.windows import cut, token_places
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.rows import left_padded
from narrowband.reader.split_prompt import Contexts, SplitPrompt, lay_contexts


@runtime_checkable
class Shortener(Protocol):
    """One vector for every `k` tokens of a context, counted from its first, and one for the rest."""

    @property
    def k(self) -> int:
        """Tokens per vector."""

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], contexts: Contexts
    ) -> Float[Tensor, "vectors hidden"]:
        """The vectors of all `contexts`, one context after the other; `embeddings` are those of their ids."""


class ReadRows(NamedTuple):
    """Left-padded rows of embeddings that the frozen model reads, and which of them are not padding."""

    embeddings: Float[Tensor, "batch seq hidden"]
    mask: Bool[Tensor, "batch seq"]


def count(tokens: int, k: int) -> int:
    """Number of vectors for `tokens` tokens: ceil(tokens / k)."""
    return -(-tokens // k)


def pooled(
    states: Float[Tensor, "batch seq width"], coded: Bool[Tensor, "batch seq"], k: int
) -> Float[Tensor, "vectors width"]:
    """Means over every `k` of each row's coded positions; the last group may be smaller."""
    coded = coded.to(states.device)
    sums = cut(states, coded, k).view(-1, k, states.shape[-1]).sum(1)
    return sums / token_places(coded, k).sum(-1, keepdim=True)


@dataclass(frozen=True)
class Every:
    """`method`, with one vector for every `k` tokens."""

    k: int
    method: Callable[[Tensor, Contexts, int], Tensor]

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], contexts: Contexts
    ) -> Float[Tensor, "vectors hidden"]:
        """See `Shortener`."""
        return self.method(embeddings, contexts, self.k)


def mean_pooling(
    embeddings: Float[Tensor, "batch seq hidden"], contexts: Contexts, k: int
) -> Float[Tensor, "vectors hidden"]:
    """The mean of every `k` embeddings."""
    return pooled(embeddings, contexts.inside, k)


def every_kth(
    embeddings: Float[Tensor, "batch seq hidden"], contexts: Contexts, k: int
) -> Float[Tensor, "vectors hidden"]:
    """The first of every `k` tokens, as it is."""
    place = contexts.inside.long().cumsum(-1) - 1
    return embeddings[(contexts.inside & (place % k == 0)).to(embeddings.device)]


def beginning(
    embeddings: Float[Tensor, "batch seq hidden"], contexts: Contexts, k: int
) -> Float[Tensor, "vectors hidden"]:
    """The first tokens of a context, as they are; its end is cut off."""
    tokens = contexts.inside.sum(-1, keepdim=True)
    place = contexts.inside.long().cumsum(-1)
    return embeddings[(contexts.inside & (place <= -(-tokens // k))).to(embeddings.device)]


@torch.no_grad()
def surprising(
    lm: FrozenLM, embeddings: Float[Tensor, "batch seq hidden"], contexts: Contexts, k: int
) -> Float[Tensor, "vectors hidden"]:
    """The tokens with the highest surprisal under the base model, as they are, in their original order.

    The idea of LLMLingua (Jiang et al. 2023, arXiv:2310.05736), token by token and without its budgets.
    """
    rows = []
    for row, ids, inside in zip(embeddings, contexts.ids.to(embeddings.device), contexts.inside, strict=True):
        tokens = int(inside.sum())
        end = int(inside.nonzero()[-1]) + 1
        mask = torch.ones(1, end, dtype=torch.bool, device=embeddings.device)
        logits = lm.logits_at(row[None, :end], mask, mask[:, -tokens - 1 :], contexts.shared)
        surprisal = F.cross_entropy(logits[:-1], ids[end - len(logits) + 1 : end], reduction="none")
        # Nothing predicts the first token of a row, should it be the context's.
        surprisal = F.pad(surprisal, (tokens - len(surprisal), 0), value=torch.inf)
        kept = surprisal.topk(count(tokens, k)).indices.sort().values
        rows.append(row[end - tokens : end][kept])
    return torch.cat(rows)


def shorteners(lm: FrozenLM, k: int) -> dict[str, Shortener]:
    """Ways to shorten without training, by name; `surprisal` runs `lm` over each context."""
    return {
        "mean pooling": Every(k, mean_pooling),
        "every k-th token": Every(k, every_kth),
        "beginning": Every(k, beginning),
        "surprisal": Every(k, partial(surprising, lm)),
    }


def latents(lm: FrozenLM, shorten: Shortener, prompts: Sequence[SplitPrompt]) -> list[Float[Tensor, "vectors hidden"]]:
    """The vectors that replace the context of each of `prompts`; a context that several share is encoded once."""
    keys = [(tuple(prompt.head), tuple(prompt.context)) for prompt in prompts]
    distinct = dict(zip(keys, prompts, strict=True))
    contexts = lay_contexts(list(distinct.values()), lm.pad_id)
    vectors = shorten(lm.embed(contexts.ids), contexts)
    of_each = vectors.split([count(len(context), shorten.k) for _, context in distinct])
    found = dict(zip(distinct, of_each, strict=True))
    return [found[key] for key in keys]


def lay_rows(
    lm: FrozenLM,
    prompts: Sequence[SplitPrompt],
    vectors: Sequence[Float[Tensor, "_ hidden"]],
    answers: Sequence[Sequence[int]] | None = None,
) -> ReadRows:
    """`prompts` with their contexts replaced by `vectors`, each followed by its answer's tokens if `answers` are given."""
    rows = []
    for prompt, read, answer in zip(prompts, vectors, answers or [[]] * len(prompts), strict=True):
        before, after = (
            lm.embed(torch.tensor(ids, dtype=torch.long)) for ids in (prompt.head, [*prompt.question, *answer])
        )
        rows.append(torch.cat([before, read.to(before), after]))
    return ReadRows(*left_padded(rows))
