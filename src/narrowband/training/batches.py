"""Batches that depend on the seed and the step alone, so that a resumed run sees what an undisturbed one would."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from narrowband.data.prompts import EncodedPrompt, collate
from narrowband.lm import FrozenLM

T = TypeVar("T")

CALIBRATION_PROMPTS = 512
"""Training prompts that the scale of `magnitude: calibrated` is fitted on."""


def draw(items: Sequence[T], size: int, seed: int, step: int) -> list[T]:
    """`size` items for `step`: a fresh permutation of all items each epoch, from a generator of its own."""
    per_epoch = max(1, len(items) // size)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return [items[i] for i in order[place * size : (place + 1) * size].tolist()]


def embedded(
    lm: FrozenLM, prompts: Sequence[EncodedPrompt], size: int
) -> Iterator[tuple[Float[Tensor, "batch seq hidden"], Bool[Tensor, "batch seq"]]]:
    """Embeddings of `prompts` with their coded positions, `size` prompts at a time, in order."""
    for start in range(0, len(prompts), size):
        batch = collate(prompts[start : start + size], lm.pad_id)
        yield lm.embed(batch.ids), batch.coded
