"""Sampling that gives a row the same draws whatever other rows are in its batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from narrowband.lm.frozen import FrozenLM
from narrowband.lm.rows import single_rows
from narrowband.lm.stop import TextEnd


class Sampling(NamedTuple):
    """How continuations are drawn: temperature (0 is greedy), maximum new tokens, and strings that end one."""

    temperature: float
    max_new_tokens: int
    stop_strings: tuple[str, ...]


class SeededRows(LogitsProcessor):
    """Turns greedy decoding into sampling at `temperature`, with one generator per row.

    The argmax of `logits / temperature` plus Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et al.
    2014, "A* sampling", arXiv:1411.0030); `-log E` is Gumbel where `E` is exponential.
    """

    def __init__(self, temperature: float, seeds: Sequence[int], device: torch.device) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Int[Tensor, "batch seq"], scores: Float[Tensor, "batch vocab"]) -> Tensor:
        """Noisy scores of the next token; every call draws anew from each row's generator."""
        noise = torch.stack([torch.empty_like(scores[0]).exponential_(generator=g) for g in self.generators])
        return scores / self.temperature - noise.log()


def sample(
    lm: FrozenLM,
    ids: Int[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
    seeds: Sequence[int],
    sampling: Sampling,
) -> Int[Tensor, "batch new"]:
    """New tokens of left-padded prompts, each row up to EOS or a stop string, then filled with `pad_id`.

    Greedy at temperature 0; otherwise row `i` draws from a generator of its own, seeded with `seeds[i]`.
    """
    if not lm.batchable and len(mask) > 1:
        rows = zip(single_rows(ids, mask), seeds, strict=True)
        found = [sample(lm, *row, [seed], sampling)[0] for row, seed in rows]
        return nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=lm.pad_id)
    noise = [SeededRows(sampling.temperature, seeds, lm.device)] if sampling.temperature else []
    tokens = lm.greedy(
        TextEnd.at_strings(lm.tokenizer, sampling.stop_strings, ids.shape[1]),
        sampling.max_new_tokens,
        input_ids=ids.to(lm.device),
        attention_mask=mask.long().to(lm.device),
        logits_processor=LogitsProcessorList(noise),
    )
    return tokens[:, ids.shape[1] :]
