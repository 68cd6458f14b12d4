"""Random vocabulary tokens in place of some of a prompt's own, so that the codec learns tokens that no prompt contains."""

from collections.abc import Sequence
from random import Random

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from narrowband.data.encoded import EncodedPrompt, EncodedPrompts


def plain_tokens(tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " n"]:
    """Every token of the vocabulary except special ones, in ascending order."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special.update(tokenizer.all_special_ids)
    return torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))


def mixed_in(
    prompts: Sequence[EncodedPrompt], share: float, tokens: Int[Tensor, " n"], seed: str
) -> Sequence[EncodedPrompt]:
    """`prompts` with a share of all their coded tokens replaced by uniform draws from `tokens`, determined by `seed`.

    Prompts keep their lengths, and tokens that are not coded stay. Nothing is drawn if the share is 0.
    """
    if not share:
        return prompts
    stored = EncodedPrompts.of(prompts)
    ids, places = stored.ids, stored.coded.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(Random(seed).getrandbits(63))
    chosen = torch.randperm(len(places), generator=generator)[: round(share * len(places))]
    drawn = tokens[torch.randint(len(tokens), (len(chosen),), generator=generator)]
    ids[places[chosen]] = drawn.to(ids.dtype)
    return stored.with_ids(ids)
