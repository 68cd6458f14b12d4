"""Is it a base model? Probes whether the model continues text rather than follows instructions, before any generation.

The texts are the user's own few-shot pool and five fixed orders. The limits come from chance (coin tosses) and from the length
of documents; `ENDED` was set after seeing the values of two models (docs/sft.md).
"""

from collections.abc import Sequence
from math import exp
from statistics import fmean
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from narrowband.data.words import is_latin, words
from narrowband.lm.bos import is_chat_delimiter
from narrowband.lm.sampling import Sampling
from narrowband.sft.filters import CUES
from narrowband.sft.model import PlainModel
from narrowband.sft.pool import FewShotExample

ENDED = 0.03
"""Highest mean probability that a text ends right after one answer.

A web page has some 30 sentences or more, so a model of pages ends a text after fewer than one sentence in 30. A model
trained on conversations ends its turn exactly there.
"""

ANSWERED = 0.5
"""With at least this share of obedient replies, a model follows instructions more often than not."""

ORDERS = {
    "Reply with the single word banana.": ("banana",),
    "Say exactly 'hello world' and nothing else.": ("hello world",),
    "Translate the word 'cat' into French.": ("chat", "le chat", "un chat"),
    "Answer this question with yes or no only. Is fire hot?": ("yes",),
    "Write the number seven as a digit, then stop.": ("7",),
}
"""Orders, each with what an obedient reply begins with."""

ASSISTANT = ("sure", "certainly", "of course", "i m sorry", "as an ai", "i d be happy", "how can i")
"""What an assistant's reply begins with."""

SAMPLING = Sampling(temperature=0.0, max_new_tokens=16, stop_strings=CUES)
"""Not stopped at a blank line, as many models put one before a reply."""


class Examination(NamedTuple):
    """What the probes found.

    `continued`: share of the pool's answers that are likelier after their own instruction than after another's; a model
    that cannot read scores `chance`, the 95th percentile of coin tosses. `ended`: mean probability that the text ends
    right after an answer. `answered`: share of `ORDERS` that were obeyed, or answered in an assistant's words. `marks`:
    tokenizer roles (BOS, EOS) whose token is a chat delimiter. `latin`: whether at least half of the pool is in
    Latin script; a model of another script may not read `ORDERS`, which are English, so that few of them obeyed say little.
    """

    continued: float
    chance: float
    ended: float
    answered: float
    marks: list[str]
    replies: dict[str, str]
    latin: bool

    @property
    def against(self) -> list[str]:
        """Signs of instruction tuning, one clause each; empty for a base model."""
        signs = [f"its {mark} is a chat delimiter" for mark in self.marks]
        if self.ended >= ENDED:
            signs.append(f"it ends the text after an answer with probability {self.ended:.3f} (limit {ENDED})")
        if self.answered >= ANSWERED:
            signs.append(f"it answers {self.answered:.0%} of bare orders (limit {ANSWERED:.0%})")
        return signs

    @property
    def kind(self) -> str:
        """`instruction-tuned`, `unreadable` (its predictions do not depend on the text) or `base`."""
        if self.against:
            return "instruction-tuned"
        return "base" if self.continued > self.chance else "unreadable"

    @property
    def sentence(self) -> str:
        """The kind and what it rests on, in one sentence."""
        if self.kind == "base":
            return (
                f"base_model is a base model: {self.continued:.0%} of the pool's answers are likelier after their own instruction "
                f"(chance: up to {self.chance:.0%}), it ends the text after an answer with probability {self.ended:.3f} (limit "
                f"{ENDED}) and answers {self.answered:.0%} of bare orders (limit {ANSWERED:.0%})"
                + ("" if self.latin else ", which says little, as they are English and data.few_shot_pool is not")
            )
        if self.kind == "unreadable":
            return (
                f"base_model does not read the pool's texts: only {self.continued:.0%} of the answers are likelier after their own "
                f"instruction (chance: up to {self.chance:.0%}); check data.bos and the language of data.few_shot_pool"
            )
        return f"base_model looks instruction-tuned: {'; '.join(self.against)}; its records are not a base model's"


def ask_sentinels(model: PlainModel, pool: Sequence[FewShotExample]) -> Examination:
    """Probe a model with the texts of `pool` and with `ORDERS`, as bare text."""
    from scipy.stats import binom  # slow to import

    said = model.complete(list(ORDERS), [0] * len(ORDERS), SAMPLING)
    replies = {order: one.text.strip().split("\n", 1)[0] for order, one in zip(ORDERS, said, strict=True)}
    marks = {"BOS": model.tokenizer.bos_token, "EOS": model.tokenizer.eos_token}
    return Examination(
        continued=fmean(gain > 0 for gain in _gains(model, pool)),
        chance=float(binom.ppf(0.95, len(pool), 0.5)) / len(pool),
        ended=_ended(model, pool),
        answered=fmean(_answers(reply, ORDERS[order]) for order, reply in replies.items()),
        marks=[f"{role} {token}" for role, token in marks.items() if token and is_chat_delimiter(str(token))],
        replies=replies,
        latin=fmean(is_latin(f"{example.instruction} {example.completion}") for example in pool) >= 0.5,
    )


def _gains(model: PlainModel, pool: Sequence[FewShotExample]) -> list[float]:
    """Log-likelihood in nats of each answer after its own instruction, minus that after an instruction half the pool away."""
    others = [pool[(i + len(pool) // 2) % len(pool)] for i in range(len(pool))]
    pairs = [*zip(pool, pool, strict=True), *zip(others, pool, strict=True)]
    texts = [f"{asking.instruction}\n{answering.completion}" for asking, answering in pairs]
    answers = [
        model.tokens_from(text, len(text) - len(answering.completion))
        for text, (_, answering) in zip(texts, pairs, strict=True)
    ]
    scores = model.log_probs(model.encode(texts))
    totals = [sum(row[-count:]) for row, count in zip(scores, answers, strict=True)]
    return [own - other for own, other in zip(totals[: len(pool)], totals[len(pool) :], strict=True)]


def _ended(model: PlainModel, pool: Sequence[FewShotExample]) -> float:
    """Mean probability of end of text or of any chat delimiter right after an instruction and its answer."""
    rows = model.encode([f"{example.instruction}\n{example.completion}" for example in pool])
    ends = end_ids(model.tokenizer)
    scores = model.log_probs([[*row, end] for row in rows for end in ends])
    return sum(exp(row[-1]) for row in scores) / len(rows)


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a text or a turn: EOS, and chat delimiters of the vocabulary."""
    found = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    return sorted(found | {i for token, i in tokenizer.get_vocab().items() if is_chat_delimiter(token)})


def _answers(reply: str, starts: Sequence[str]) -> bool:
    plain = " ".join(words(reply))
    return any(f"{plain} ".startswith(f"{start} ") for start in (*starts, *ASSISTANT))
