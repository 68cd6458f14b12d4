import pytest
import torch

from benchmarks import positions
from benchmarks.setting import base_lm


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "REPETITIONS", 1)
    monkeypatch.setattr(positions, "FEWER", (2, 8))


def test_a_length_is_measured_and_its_cache_is_as_large_as_its_shape_says() -> None:
    text, half, eighth = positions.measure(base_lm(), 33)
    config = base_lm().model.config
    frame = len(positions.Asked(base_lm(), 33, 1).prompt.ids) - 33
    each = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4  # float32 keys and values
    assert [saved.cache_bytes for saved in (text, half, eighth)] == [each * (frame + n) for n in (33, 17, 5)]
    assert all(seconds > 0 for saved in (text, half, eighth) for seconds in saved[2:5])
    assert len(positions.cells(half, text)) == len(positions.HEADER)


def test_at_one_token_a_position_the_first_token_is_that_of_the_prompt_as_text() -> None:
    asked = positions.Asked(base_lm(), 20, 1)
    assert (
        asked.first_token(asked.encode())
        == base_lm().model.generate(
            torch.tensor([asked.prompt.ids]), max_new_tokens=1, do_sample=False, pad_token_id=0
        )[0, -1]
    )


@pytest.mark.parametrize("k", [2, 8])
def test_a_training_step_takes_the_flops_of_the_formula(k: int) -> None:
    step = positions.training_step(base_lm(), k, questions=2)
    assert step.counted == pytest.approx(step.formula, rel=0.1)
