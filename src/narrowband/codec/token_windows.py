"""Prompts as input for the codec: embeddings or states after a block, and which positions pass through it."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from narrowband.codec.pca import require_windows
from narrowband.codec.windows import cut
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.lm.frozen import FrozenLM

BATCH = 256
"""Prompts whose tokens are cut into windows at a time."""


def embedded(
    lm: FrozenLM, prompts: Sequence[EncodedPrompt], size: int
) -> Iterator[tuple[Float[Tensor, "batch seq hidden"], Bool[Tensor, "batch seq"]]]:
    """Embeddings, or states, of `prompts` with their coded positions, `size` prompts at a time, in order."""
    for start in range(0, len(prompts), size):
        batch = collate(prompts[start : start + size], lm.pad_id)
        yield lm.states(batch.ids, batch.mask), batch.coded.to(lm.device)


def token_windows(
    lm: FrozenLM, prompts: Sequence[EncodedPrompt], window: int
) -> tuple[Float[Tensor, "n hidden"], Int[Tensor, "count window"]]:
    """Embeddings of the distinct coded tokens, and the windows of `prompts` as row indices of these.

    A prompt's last window is padded with the index of a row of zeros.
    """
    batches = (collate(prompts[start : start + BATCH], lm.pad_id) for start in range(0, len(prompts), BATCH))
    ids = torch.cat([cut(batch.ids[..., None] + 1, batch.coded, window) for batch in batches])  # 0: padding
    distinct, windows = ids.unique(return_inverse=True)
    vectors = lm.embed((distinct - 1).clamp(min=0)).cpu()
    vectors[distinct == 0] = 0
    return vectors, windows


def coded_lengths(prompts: Sequence[EncodedPrompt]) -> Int[Tensor, " prompts"]:
    """Tokens of each prompt that pass through the codec."""
    return torch.tensor([sum(prompt.coded) for prompt in prompts])


def check_windows(prompts: Iterable[EncodedPrompt], window: int, compress_dim: int) -> None:
    """Check that training `prompts` have enough windows for a PCA; reads no more prompts than necessary.

    Raises:
        InputError: see `require_windows`.
    """
    count = 0
    for prompt in prompts:
        count += -(-sum(prompt.coded) // window)
        if count > compress_dim:
            return
    require_windows(compress_dim, count)
