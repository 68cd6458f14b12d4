"""The two real models, where NARROWBAND_REAL names the folder that they were fetched to (`make test-real` does it)."""

import os
from pathlib import Path

import pytest

from narrowband.lm.frozen import FrozenLM
from narrowband.lm.packages import MODELS, fetch

KEPT = Path(os.environ.get("NARROWBAND_REAL", ""), "cache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in this folder unless the models are there."""
    if not os.environ.get("NARROWBAND_REAL"):
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs NARROWBAND_REAL=FOLDER with the real models"))


@pytest.fixture(scope="session", params=MODELS)
def real(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """The name of a real model and its GGUF file; what is made of it is kept beside it."""
    os.environ["XDG_CACHE_HOME"] = str(KEPT)
    return request.param, fetch(Path(os.environ["NARROWBAND_REAL"]))[request.param]


@pytest.fixture(scope="session")
def real_lm(real: tuple[str, Path]) -> FrozenLM:
    return FrozenLM.load(str(real[1]))
