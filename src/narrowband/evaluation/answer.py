"""Free-running generation through a codec, with what it cost and how well it reconstructed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.folded import FoldedCodec
from narrowband.data.encoded import EncodedPrompt, EncodedPrompts
from narrowband.data.prompts import Batch, collate, encode_prompts, truncated_share
from narrowband.data.squad import Example
from narrowband.evaluation.form import answer_form
from narrowband.evaluation.reconstruction import Quality
from narrowband.evaluation.scoring import Score, score_all
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import Reply
from narrowband.params import Prompt, Stop
from narrowband.runtime import distributed

LARGE = 1 << 24
"""Numbers in an embedding table from which on not each place of a prompt is searched for the token nearest to it.

A search costs as much as reading some tokens: 5.2 ms of one core on Gemma 3 270M, whose prompt tokens take 5 with their answer.
"""

SEARCHED = 4096
"""Places that are searched for then, about, evenly spread over all prompts: `token_match` is good to 1.5 points (95%)."""


class System(Protocol):
    """What prompts are sent through: embeddings in, embeddings out, at a cost."""

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens as they arrive."""

    def bits(self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs, side information included."""


class Evaluated(NamedTuple):
    """Predictions by question id with their scores; quality and rate of the codec, if there was one; prompts cut short.

    `form` has the shares of answers that are empty, cut or run on; `by_seen` the quality of tokens that training saw, and of
    others, if it was told which these are.
    """

    predictions: dict[str, str]
    scores: list[Score]
    quality: dict[str, float]
    bits_per_token: float
    truncated_share: float
    form: dict[str, float]
    by_seen: dict[str, dict[str, float]]

    @property
    def f1(self) -> float:
        """Mean F1, 0 to 100."""
        return sum(score.f1 for score in self.scores) / len(self.scores)

    @property
    def em(self) -> float:
        """Mean exact match, 0 to 100."""
        return sum(score.em for score in self.scores) / len(self.scores)


class HasIds(Protocol):
    """A prompt, whole or in parts."""

    @property
    def ids(self) -> list[int]:
        """Its token ids."""


def batches_by_length(prompts: Sequence[HasIds], size: int) -> list[list[int]]:
    """Indices of `prompts`, shortest first, `size` at a time, so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass(frozen=True)
class QuestionAnswerer:
    """A frozen LM with the way it is asked: the form of its prompts, new tokens an answer at most, prompts a batch.

    `stop` says where an answer ends.
    """

    lm: FrozenLM
    prompt: Prompt
    max_new_tokens: int
    batch_size: int
    stop: Stop

    def encode(self, examples: Iterable[Example]) -> EncodedPrompts:
        """The prompts of `examples`."""
        return encode_prompts(self.lm.tokenizer, examples, self.prompt)

    def generate(
        self,
        embeddings: Float[Tensor, "batch seq hidden"],
        mask: Bool[Tensor, "batch seq"],
        shared: tuple[int, ...] = (),
    ) -> list[Reply]:
        """Greedy answers to left-padded prompts given as embeddings, which all begin with the tokens `shared`."""
        return self.lm.generate(embeddings, mask.to(self.lm.device), self.max_new_tokens, self.stop, shared)

    def answer_ids(self, ids: Sequence[int]) -> str:
        """The greedy answer to one prompt given as token ids."""
        return self.lm.generate_from_ids(ids, self.max_new_tokens, self.stop).text

    def answer(
        self,
        system: System | None,
        examples: Sequence[Example],
        *,
        seen: Int[Tensor, " known"] | None = None,
        advance: Callable[[int], None] = lambda n: None,
    ) -> Evaluated:
        """Answer every example greedily from embeddings, batches sorted by length; without a system they stay as they are.

        A codec that takes tokens alone is folded: it and its quality are computed once for each distinct token. `seen` are
        the tokens that went through it in training.
        """
        prompts = self.encode(examples)
        sender = _Sender(self.lm, system, prompts, seen)

        def answer_batch(rows: list[int]) -> tuple[dict[str, Reply], Quality, int]:
            batch = collate([prompts[i] for i in rows], self.lm.pad_id)
            embeddings, quality, cost = sender.send(batch)
            answers = self.generate(embeddings, batch.mask, batch.shared)
            advance(len(rows))
            replies = {examples[i].id: reply for i, reply in zip(rows, answers, strict=True)}
            return replies, quality, cost

        replies: dict[str, Reply] = {}
        quality, bits = sender.folded_quality(), 0
        batches = batches_by_length(prompts, self.batch_size)
        for answers, part, cost in distributed.shared_out(answer_batch, batches):
            replies |= answers
            quality.merge(part)
            bits += cost
        ordered = {example.id: replies[example.id].text for example in examples}
        return Evaluated(
            ordered,
            score_all(ordered, examples),
            quality.means() if system else {},
            bits / max(1, quality.count),
            truncated_share(prompts),
            answer_form([replies[example.id] for example in examples], examples),
            quality.by_seen() if system and seen is not None else {},
        )


def sent(
    system: System, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
) -> tuple[Float[Tensor, "batch seq hidden"], int]:
    """What arrives of `embeddings`, and its bits: where a codec writes streams, what it makes of these, and their length."""
    if not (isinstance(system, Codec) and system.coder):
        return system(embeddings, coded), system.bits(embeddings, coded)
    streams = system.encode(embeddings, coded)
    tokens = torch.cat(system.decode(streams))
    return embeddings.index_put((coded.to(embeddings.device),), tokens), 8 * sum(map(len, streams))


class _Sender:
    """Sends batches of `prompts` through a system, and measures what arrives."""

    def __init__(
        self, lm: FrozenLM, system: System | None, prompts: Sequence[EncodedPrompt], seen: Int[Tensor, " known"] | None
    ) -> None:
        self.lm, self.system, self.seen = lm, system, seen
        alone = isinstance(system, Codec) and system.takes_tokens_alone and not system.coder
        self.folded = FoldedCodec(system, lm, prompts) if alone and isinstance(system, Codec) else None
        coded = sum(sum(prompt.coded) for prompt in prompts)
        self.every = -(-coded // SEARCHED) if lm.embedding.weight.numel() >= LARGE else 1

    @torch.no_grad()
    def send(self, batch: Batch) -> tuple[Float[Tensor, "batch seq hidden"], Quality, int]:
        """Embeddings as they arrive; their quality, unless it is that of `folded_quality`; and the bits they cost."""
        original, quality = self.lm.embed(batch.ids), Quality(seen=self.seen)
        if self.system is None:
            return original, quality, 0
        if self.folded:
            return self.folded(original, batch), quality, self.system.bits(original, batch.coded)
        embeddings, cost = sent(self.system, original, batch.coded)
        received = embeddings[batch.coded]
        nearest = self.lm.nearest(received[:: self.every])
        quality.add(original[batch.coded], received, batch.ids[batch.coded], nearest, every=self.every)
        return embeddings, quality, cost

    def folded_quality(self) -> Quality:
        """Quality over all prompts of a codec that takes tokens alone; empty for any other system."""
        quality = Quality(seen=self.seen)
        if folded := self.folded:
            nearest = self.lm.nearest(folded.reconstructed)
            quality.add(folded.original, folded.reconstructed, folded.ids, nearest, folded.counts)
        return quality
