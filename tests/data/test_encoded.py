import pytest
import torch

from narrowband.data.encoded import EncodedPrompt, EncodedPrompts

PROMPTS = [
    EncodedPrompt([1, 70_000, 3], [False, True, True], truncated=False),
    EncodedPrompt([], [], truncated=True),
    EncodedPrompt([5, 6], [True, False], truncated=True, shared=1),
]


def test_stored_prompts_are_read_as_they_were_given() -> None:
    stored = EncodedPrompts(iter(PROMPTS))
    assert list(stored) == PROMPTS and len(stored) == 3
    assert stored[-1] == PROMPTS[-1] and stored[1:] == PROMPTS[1:] and stored[::2] == PROMPTS[::2]
    assert type(stored[0].coded[1]) is bool
    with pytest.raises(IndexError):
        stored[3]
    assert EncodedPrompts.of(stored) is stored


def test_tokens_of_all_prompts_follow_each_other_and_can_be_replaced() -> None:
    stored = EncodedPrompts(PROMPTS)
    assert stored.ids.tolist() == [1, 70_000, 3, 5, 6] and stored.coded.tolist() == [False, True, True, True, False]
    other = stored.with_ids(stored.ids + 1)
    assert [prompt.ids for prompt in other] == [[2, 70_001, 4], [], [6, 7]]
    assert [prompt._replace(ids=[]) for prompt in other] == [prompt._replace(ids=[]) for prompt in PROMPTS]
    assert list(stored) == PROMPTS


def test_a_token_takes_five_bytes() -> None:
    prompts = (EncodedPrompt([300] * 1000, [True] * 1000, truncated=False) for _ in range(100))
    stored = EncodedPrompts(prompts)
    kept = sum(part.buffer_info()[1] * part.itemsize for part in (stored._ids, stored._coded, stored._ends))
    assert kept == pytest.approx(5 * 100_000, rel=0.01)


def test_no_prompts_are_a_sequence_too() -> None:
    assert list(EncodedPrompts(())) == [] and torch.equal(EncodedPrompts(()).ids, torch.tensor([], dtype=torch.int32))
