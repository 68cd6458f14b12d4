import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from families import save_family

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


def test_an_id_after_a_gap_has_an_embedding_and_no_unused_id_is_drawn(tmp_path: Path) -> None:
    file = save_family("llama", tmp_path) / "tokenizer.json"
    content = json.loads(file.read_text())
    unused = content["model"]["vocab"]["\u010a"]
    content["model"]["vocab"]["\u010a"] = 520  # the line break
    file.write_text(json.dumps(content))
    lm = FrozenLM.load(str(tmp_path))
    assert lm.tokenizer("\n", add_special_tokens=False).input_ids == [520]
    assert lm.nearest(lm.embed(torch.tensor([520]))).tolist() == [520]
    drawn = set(plain_tokens(lm.tokenizer).tolist())
    assert 520 in drawn and drawn.isdisjoint({unused, *range(512, 520)})
