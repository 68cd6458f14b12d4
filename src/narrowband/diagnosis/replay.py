"""Two experiments that answer one batch of questions again.

The uncompressed prompts are answered by other calls of the language model (which call gives the saved answers?), and each codec's
prompts with the norms of the originals (is scale the problem?).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import torch

from narrowband.codec.codec import Codec
from narrowband.codec.magnitude import restore_magnitude, side_information
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.data.squad import Example
from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet
from narrowband.evaluation.scoring import Predictions, normalize, score_all
from narrowband.lm.bos import is_chat_delimiter
from narrowband.lm.rows import KnownTokens

REPLAYED = 24
"""Questions that are answered again, one at a time."""


class Probed(NamedTuple):
    """An evaluation batch: questions and their prompts, shortest first, padded together in `evaluate`."""

    examples: list[Example]
    prompts: list[EncodedPrompt]


@dataclass(frozen=True)
class Rescaled:
    """F1 on one batch with the codec as it is, with every token given its original's norm, and of the uncompressed model."""

    f1_before: float
    f1_after: float
    f1_uncompressed: float
    gain_low: float  # lower end of the paired 95% interval of the gain


@dataclass(frozen=True)
class CallPath:
    """The share (0 to 1) of the saved uncompressed answers that each of three calls of the language model reproduces.

    `with_bos` and `without_bos` pass token ids, one prompt at a time; `without_mask` passes padded embeddings with a mask of
    ones.
    """

    with_bos: float
    without_bos: float
    without_mask: float
    bos_gain_low: float  # lower end of the paired 95% interval of F1 with BOS over the saved answers


@torch.no_grad()
def try_scales(
    answerer: QuestionAnswerer, codec: Codec, probed: Probed, saved: Predictions, uncompressed: Predictions, seed: int
) -> Rescaled:
    """F1 on `probed` with the norms of the originals, as `magnitude: token` would send them, and of the saved answers.

    `saved` are the codec's answers, `uncompressed` those of the model itself.
    """
    lm = answerer.lm
    batch = collate(probed.prompts, lm.pad_id)
    original, coded = lm.embed(batch.ids), batch.coded.to(lm.device)
    rebuilt = restore_magnitude(
        codec(original, coded), side_information(original, coded, "token"), coded, "token", codec.scale
    )
    replies = answerer.generate(rebuilt, batch.mask, KnownTokens(batch.shared))
    answers = {e.id: reply.text for e, reply in zip(probed.examples, replies, strict=True)}
    before, after, own = (
        [score.f1 for score in score_all(texts, probed.examples)] for texts in (saved, answers, uncompressed)
    )
    gains = [b - a for a, b in zip(before, after, strict=True)]
    return Rescaled(fmean(before), fmean(after), fmean(own), _low(gains, probed.examples, seed))


@torch.no_grad()
def replay(answerer: QuestionAnswerer, probed: Probed, saved: Predictions, seed: int) -> CallPath:
    """Answer the uncompressed prompts of `probed` by three calls of the language model."""
    lm = answerer.lm
    batch = collate(probed.prompts, lm.pad_id)
    unmasked = [reply.text for reply in answerer.generate(lm.embed(batch.ids), torch.ones_like(batch.mask))[:REPLAYED]]
    bos = None if is_chat_delimiter(str(lm.tokenizer.bos_token)) else lm.tokenizer.bos_token_id
    bare = [prompt.ids[prompt.ids[0] == bos :] for prompt in probed.prompts[:REPLAYED]]
    without = [answerer.answer_ids(ids) for ids in bare]
    with_bos = without if bos is None else [answerer.answer_ids([bos, *ids]) for ids in bare]
    asked = probed.examples[:REPLAYED]

    def same(answers: Sequence[str]) -> float:
        pairs = zip(asked, answers, strict=True)
        return sum(normalize(text, saved[e.id]) == normalize(saved[e.id], text) for e, text in pairs) / len(asked)

    before = score_all(saved, asked)
    after = score_all({e.id: text for e, text in zip(asked, with_bos, strict=True)}, asked)
    gains = [b.f1 - a.f1 for a, b in zip(before, after, strict=True)]
    return CallPath(same(with_bos), same(without), same(unmasked), _low(gains, asked, seed))


def _low(gains: Sequence[float], asked: Sequence[Example], seed: int) -> float:
    return QuestionSet(asked, seed).interval(gains)["low"]
