"""Whether a base model predicts text better with BOS before it, measured on texts like those it will read."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from statistics import fmean
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from narrowband.lm.frozen import FrozenLM
from narrowband.lm.plain_text import encode_plainly

TEXTS = 64
"""Maximum number of texts measured, evenly spaced among those given."""

TOKENS = 64
"""Maximum number of tokens measured of each text: BOS matters most at the start."""

GAIN = 0.01
"""Threshold in nats per token: SFT prompts get BOS if it gains at least this, QA prompts unless it costs more than this.

An SFT prompt stays plain text unless BOS helps; a QA prompt begins with BOS, as texts in the model's training did, unless it
hurts.
"""

TokenLogProbs = Callable[[Sequence[Sequence[int]]], list[list[float]]]
"""For each row of token ids, the log-probability in nats of every token after the first."""

_CHAT = re.compile(
    r"im_(?:start|end)|(?<![a-z])turn|header_id|eot|eom_id|\bINST\b|user|assistant|system|human|message|role|chat",
    re.IGNORECASE,
)
_MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


class BosChoice(NamedTuple):
    """Whether BOS is added, the mean log-likelihoods in nats per token behind that (None: not measured), and why."""

    added: bool
    with_bos: float | None
    without_bos: float | None
    reason: str


def is_chat_delimiter(token: str) -> bool:
    """Whether a token, by its name, marks turns of a conversation, as `<|im_start|>` and `[INST]` do."""
    return bool(_MARK.fullmatch(token) and _CHAT.search(token))


def choose_bos(lm: FrozenLM, rows: Sequence[Sequence[int]]) -> BosChoice:
    """Add BOS before the token ids in `rows` unless it lowers their mean log-likelihood by more than `GAIN` nats per token."""
    return compare_bos(lm.tokenizer, rows, lambda ids: [token_log_probs(lm, row) for row in ids], least=-GAIN)


def measure_bos(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], log_probs: TokenLogProbs) -> BosChoice:
    """Add BOS if it raises the mean log-likelihood of the same tokens of `texts` by at least `GAIN` nats per token."""
    encoded = encode_plainly(tokenizer, _spread(texts)).input_ids if texts else []
    return compare_bos(tokenizer, [ids[:TOKENS] for ids in encoded], log_probs, least=GAIN)


def compare_bos(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[int]], log_probs: TokenLogProbs, *, least: float
) -> BosChoice:
    """Add BOS if it raises the mean log-likelihood of `texts` (token ids) by at least `least` nats per token.

    Each text's first token is left out of both means, because nothing predicts it without BOS. A BOS that is a chat delimiter
    is never added. The decision uses the reported means, rounded to four decimals.
    """
    if tokenizer.bos_token_id is None:
        return BosChoice(False, None, None, "the tokenizer has no BOS")
    rows = [list(ids) for ids in texts if len(ids) > 1]
    if not rows:
        return BosChoice(False, None, None, "there is no text of two tokens to measure")
    bos = tokenizer.bos_token_id
    with_bos = _mean(scores[1:] for scores in log_probs([[bos, *ids] for ids in rows]))
    without_bos = _mean(log_probs(rows))
    gain = round(with_bos - without_bos, 4)
    if is_chat_delimiter(str(tokenizer.bos_token)):
        return BosChoice(False, with_bos, without_bos, f"BOS {tokenizer.bos_token} is a chat delimiter")
    reason = f"BOS changes the log-likelihood of {len(rows)} texts by {gain:+.4f} nats per token; it is added from {least:+g}"
    return BosChoice(gain >= least, with_bos, without_bos, reason)


@torch.no_grad()
def token_log_probs(lm: FrozenLM, ids: Sequence[int]) -> list[float]:
    """Log-probability in nats of every token of one text except the first."""
    row = torch.tensor([list(ids)])
    logits = lm.logits(lm.embed(row), torch.ones_like(row, dtype=torch.bool).to(lm.device), last=len(ids))[0, :-1]
    picked = logits.gather(-1, row[0, 1:, None].to(lm.device))[:, 0]
    return (picked - logits.logsumexp(-1)).tolist()


def _spread(texts: Sequence[str]) -> list[str]:
    """At most `TEXTS` of `texts`, evenly spaced."""
    count = min(TEXTS, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


def _mean(rows: Iterable[list[float]]) -> float:
    return round(fmean(chain.from_iterable(rows)), 4)
