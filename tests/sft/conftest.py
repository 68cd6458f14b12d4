import pytest
from sft_fakes import FakeBackend

from narrowband.lm.frozen import FrozenLM


@pytest.fixture
def backend(lm: FrozenLM) -> FakeBackend:
    return FakeBackend(lm.tokenizer)
