import pytest
from sft_fakes import FakeBackend

from narrowband.lm import FrozenLM


@pytest.fixture
def backend(lm: FrozenLM) -> FakeBackend:
    return FakeBackend(lm.tokenizer)
