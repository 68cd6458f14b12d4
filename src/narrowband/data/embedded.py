"""Prompts as the codec takes them: embeddings with the positions that pass through it."""

from collections.abc import Iterator, Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from narrowband.data.prompts import EncodedPrompt, collate
from narrowband.lm import FrozenLM

CALIBRATION_PROMPTS = 512
"""Training prompts that the scale of `magnitude: calibrated` is fitted on."""


def embedded(
    lm: FrozenLM, prompts: Sequence[EncodedPrompt], size: int
) -> Iterator[tuple[Float[Tensor, "batch seq hidden"], Bool[Tensor, "batch seq"]]]:
    """Embeddings of `prompts` with their coded positions, `size` prompts at a time, in order."""
    for start in range(0, len(prompts), size):
        batch = collate(prompts[start : start + size], lm.pad_id)
        yield lm.embed(batch.ids), batch.coded.to(lm.device)
