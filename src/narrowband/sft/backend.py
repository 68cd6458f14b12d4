"""What every generation backend can do (continue, compare, score), and the backend that runs on transformers."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.lm.bos import token_log_probs
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import Sampling, sample
from narrowband.lm.stop import TextEnd, decode_after, decode_rows

Finish = Literal["eos", "stop", "length"]


class Continuation(NamedTuple):
    """What the model wrote, stop string included, and why it stopped: EOS, stop string or token limit."""

    text: str
    finish: Finish


class Backend(Protocol):
    """A base model that continues token ids and gives log-probabilities."""

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        """One continuation per prompt; it depends on its own prompt and seed alone, not on the rest of the batch."""

    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        """`log P(good[i]) - log P(bad[i])` of the token after prompt `i`, in nats."""

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row, the log-probability in nats of every token after the first."""


class TransformersBackend:
    """The frozen base model on this machine, fed one left-padded batch at a time."""

    def __init__(self, lm: FrozenLM) -> None:
        self.lm = lm

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        """See `Backend.complete`."""
        batch = collate([_plain(ids) for ids in prompts], self.lm.pad_id)
        rows = sample(self.lm, batch.ids, batch.mask, seeds, sampling)
        return [self._read(ids, row, sampling.stop_strings) for ids, row in zip(prompts, rows, strict=True)]

    @torch.no_grad()
    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        """See `Backend.margins`; a difference of logits is a difference of log-probabilities."""
        batch = collate([_plain(ids) for ids in prompts], self.lm.pad_id)
        logits = self.lm.logits(self.lm.embed(batch.ids), batch.mask.to(self.lm.device), last=1)[:, 0]
        rows = range(len(prompts))
        return (logits[rows, list(good)] - logits[rows, list(bad)]).tolist()

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Backend.log_probs`; one row at a time, as a batch's logits over a large vocabulary fill the memory."""
        return [token_log_probs(self.lm, ids) for ids in rows]

    def _read(self, prompt: Sequence[int], row: Int[Tensor, " new"], stop_strings: Sequence[str]) -> Continuation:
        """Text of a row of new tokens, and whether EOS, a stop string or the limit ended it; after the first two comes padding.

        Padding is told by its place, as a model without EOS and padding of its own is padded with an ordinary token.
        """
        tokenizer, ids = self.lm.tokenizer, row.tolist()
        has_stopped = TextEnd.at_strings(tokenizer, stop_strings, 0).has_ended
        eos = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
        end = next((n for n in range(eos) if has_stopped(decode_rows(tokenizer, row[None, :n])[0])), eos)
        text = decode_after(tokenizer, prompt, ids[:end])
        if any(stop in text for stop in stop_strings):
            return Continuation(text, "stop")
        return Continuation(text, "length" if end == len(ids) else "eos")


def _plain(ids: Sequence[int]) -> EncodedPrompt:
    return EncodedPrompt(list(ids), [False] * len(ids), truncated=False)
