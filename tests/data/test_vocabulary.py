from collections import Counter

import pytest
import torch

from narrowband.data.encoded import EncodedPrompt
from narrowband.data.vocabulary import mixed_in, plain_tokens
from narrowband.lm.frozen import FrozenLM

PROMPTS = [EncodedPrompt([1, 7, 7, 7, 3], [False, True, True, True, False], truncated=False)] * 4000
TOKENS = torch.tensor([5, 8, 13, 21])


def changes(share: float, seed: str = "0") -> list[int]:
    """The tokens that came in, one for each that was replaced."""
    found = mixed_in(PROMPTS, share, TOKENS, seed)
    for before, after in zip(PROMPTS, found, strict=True):
        assert (after.ids[0], after.ids[-1], after.coded, len(after.ids)) == (1, 3, before.coded, 5)
    return [token for prompt in found for token in prompt.ids[1:-1] if token != 7]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_just_the_share_is_replaced_and_what_comes_in_is_uniform(share: float) -> None:
    came = changes(share)
    assert len(came) == share * 12_000
    counts = Counter(came)
    for token in TOKENS.tolist():
        assert abs(counts[token] - len(came) / 4) <= 5 * (len(came) * 3 / 16) ** 0.5  # standard deviations


def test_the_seed_decides_and_no_share_changes_nothing() -> None:
    assert changes(0.3) == changes(0.3) != changes(0.3, "1")
    assert mixed_in(PROMPTS, 0.0, TOKENS, "0") is PROMPTS
    assert PROMPTS[0].ids == [1, 7, 7, 7, 3]


def test_special_tokens_are_left_out_and_no_other(lm: FrozenLM) -> None:
    special = {lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id}
    assert set(plain_tokens(lm.tokenizer).tolist()) == set(range(len(lm.tokenizer))) - special
