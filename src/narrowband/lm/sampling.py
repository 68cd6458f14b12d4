"""Sampling that gives a row the same draws whatever other rows are in its batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor


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
