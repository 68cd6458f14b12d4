"""Answers from contexts that are read as fewer positions, and their cost in positions and bits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from narrowband.codec.quantize import FLOAT16_BITS, float16
from narrowband.data.squad import Example
from narrowband.evaluation.answer import QuestionAnswerer, batches_by_length
from narrowband.evaluation.scoring import Scored, score_all
from narrowband.lm.rows import KnownTokens
from narrowband.lm.stop import Reply
from narrowband.reader.shorten import Shortener, latents, lay_rows, shorteners
from narrowband.reader.split_prompt import shared_tokens, split_prompts
from narrowband.runtime import distributed
from narrowband.runtime.progress import bar


@dataclass(frozen=True)
class Read(Scored):
    """Scored predictions, and what they cost.

    `positions_ratio` = prompt tokens / positions read; `bits_per_token` = bits of the vectors / context tokens.
    """

    positions_ratio: float
    bits_per_token: float


@torch.no_grad()
def read_answers(
    answerer: QuestionAnswerer,
    shorten: Shortener,
    examples: Sequence[Example],
    advance: Callable[[int], None] = lambda n: None,
) -> Read:
    """Answer every example greedily, with its context shortened and rounded to float16, in batches sorted by length.

    A context that several questions of a batch share is shortened and read once; worked examples are read once for all batches.
    """
    lm = answerer.lm
    prompts = split_prompts(lm.tokenizer, examples, answerer.prompt)
    alike = answerer.alike(examples, prompts)

    def answer_batch(batch: list[int]) -> tuple[dict[str, Reply], int, int]:
        asked = [prompts[i] for i in batch]
        vectors = [float16(one) for one in latents(lm, shorten, asked)]
        rows = lay_rows(lm, asked, vectors)
        replies = answerer.generate(*rows, KnownTokens(shared_tokens(asked), [alike[i] for i in batch]))
        advance(len(batch))
        told = {examples[i].id: reply for i, reply in zip(batch, replies, strict=True)}
        return told, int(rows.mask.sum()), sum(map(len, vectors))

    replies: dict[str, Reply] = {}
    positions = sent = 0
    batches = batches_by_length(prompts, answerer.batch_size, alike)
    for told, read, vectors in distributed.shared_out(answer_batch, batches):
        replies |= told
        positions += read
        sent += vectors
    predictions = {example.id: replies[example.id].text for example in examples}
    return Read(
        predictions,
        score_all(predictions, examples),
        sum(len(prompt.ids) for prompt in prompts) / positions,
        FLOAT16_BITS * lm.hidden_size * sent / sum(len(prompt.context) for prompt in prompts),
    )


def read_by_all(answerer: QuestionAnswerer, reader: Shortener, examples: Sequence[Example]) -> dict[str, Read]:
    """Answers with `reader`, and with every untrained shortener at the same `k`, by name."""
    systems = {"reader": reader, **shorteners(answerer.lm, reader.k)}
    with bar("fewer positions", len(examples) * len(systems)) as advance:
        return {name: read_answers(answerer, system, examples, advance) for name, system in systems.items()}
