"""Free-running generation through a codec, with what it cost and how well it reconstructed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.codec.folded import FoldedCodec
from narrowband.data.prompts import EncodedPrompt, collate, encode_prompt
from narrowband.data.squad import Example
from narrowband.evaluation.reconstruction import Quality
from narrowband.evaluation.scoring import Score, score_all
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime import distributed


class System(Protocol):
    """What prompts are sent through: embeddings in, embeddings out, at a cost."""

    def __call__(
        self, embeddings: Float[Tensor, "batch seq hidden"], coded: Bool[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """`embeddings` with the coded tokens as they arrive."""

    def bits(self, coded: Bool[Tensor, "batch seq"]) -> int:
        """Bits that a batch costs, side information included."""


class Answered(NamedTuple):
    """Predictions by question id with their scores; quality and rate of the codec, if there was one; prompts cut short."""

    predictions: dict[str, str]
    scores: list[Score]
    quality: dict[str, float]
    bits_per_token: float
    truncated_share: float

    @property
    def f1(self) -> float:
        """Mean F1, 0 to 100."""
        return sum(score.f1 for score in self.scores) / len(self.scores)

    @property
    def em(self) -> float:
        """Mean exact match, 0 to 100."""
        return sum(score.em for score in self.scores) / len(self.scores)


def batches_by_length(prompts: Sequence[EncodedPrompt], size: int) -> list[list[int]]:
    """Indices of `prompts`, shortest first, `size` at a time, so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    return [order[start : start + size] for start in range(0, len(order), size)]


def answer(
    lm: FrozenLM,
    codec: System | None,
    examples: Sequence[Example],
    params: Params,
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> Answered:
    """Answer every example greedily from embeddings, batches sorted by length; `codec=None` leaves them as they are.

    A codec that takes tokens alone is folded: it and its quality are computed once for each distinct token.
    """
    prompts = [encode_prompt(lm.tokenizer, e.context, e.question, params.prompt) for e in examples]
    folded = FoldedCodec(codec, lm, prompts) if isinstance(codec, Codec) and codec.takes_tokens_alone else None

    def answer_batch(rows: list[int]) -> tuple[dict[str, str], Quality, int]:
        batch = collate([prompts[i] for i in rows], lm.pad_id)
        quality, bits = Quality(), 0
        with torch.no_grad():
            original = lm.embed(batch.ids)
            embeddings = folded(original, batch) if folded else codec(original, batch.coded) if codec else original
        if codec:
            bits = codec.bits(batch.coded)
        if codec and not folded:
            quality.add(original[batch.coded], embeddings[batch.coded], batch.ids[batch.coded], lm.vocabulary)
        answers = lm.generate(embeddings, batch.mask.to(lm.device), params.generation.max_new_tokens)
        advance(len(rows))
        return {examples[i].id: text for i, text in zip(rows, answers, strict=True)}, quality, bits

    predictions: dict[str, str] = {}
    quality, bits = Quality(), 0
    if folded:
        quality.add(folded.original, folded.reconstructed, folded.ids, lm.vocabulary, folded.counts)
    for answers, part, cost in distributed.shared_out(
        answer_batch, batches_by_length(prompts, params.generation.batch_size)
    ):
        predictions |= answers
        quality.merge(part)
        bits += cost
    ordered = {example.id: predictions[example.id] for example in examples}
    return Answered(
        ordered,
        score_all(ordered, examples),
        quality.means() if codec else {},
        bits / max(1, quality.count),
        sum(prompt.truncated for prompt in prompts) / len(prompts),
    )
