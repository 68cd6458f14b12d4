"""The search for nearest tokens, against all cosines at once."""

import pytest
import torch
import torch.nn.functional as F

from narrowband.lm import nearest
from narrowband.lm.nearest import NearestTokens

HIDDEN = 320
"""Wide enough for bounds."""


def plain(embeddings: torch.Tensor, vocabulary: torch.Tensor) -> list[int]:
    return (F.normalize(embeddings, dim=-1) @ F.normalize(vocabulary, dim=-1).T).argmax(-1).tolist()


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["bounded", "all"])
def bounded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a small vocabulary is searched as a large one is; blocks of a few rows either way."""
    monkeypatch.setattr(nearest, "WORTH_BOUNDING", 0 if request.param == "bounded" else 1 << 60)
    monkeypatch.setattr(nearest, "MOST", 5000)
    return request.param == "bounded"


def spectrum() -> torch.Tensor:
    """Sizes of components as real embeddings have them: half of the variance in a tenth of them, and a mean apart."""
    return torch.arange(1, HIDDEN + 1) ** -0.5


def test_nearest_is_by_cosine_not_by_distance() -> None:
    search = NearestTokens(torch.tensor([[1.0, 0.0], [10.0, 10.0]]))
    assert search(torch.tensor([[0.1, 0.09], [5.0, 0.1]])).tolist() == [1, 0]


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 3.0])
def test_the_nearest_are_those_of_all_cosines(bounded: bool, noise: float) -> None:
    vocabulary = (drawn(700, HIDDEN, seed=0) * spectrum() + 0.1) * torch.linspace(0.1, 9, 700)[:, None]
    rows = torch.arange(0, 700, 7)
    spread = vocabulary.std() * noise
    embeddings = vocabulary[rows] + spread * drawn(len(rows), HIDDEN, seed=1) * spectrum()
    search = NearestTokens(vocabulary)
    assert (search.directions is not None) == bounded
    assert search(embeddings).tolist() == plain(embeddings, vocabulary)
    assert search(embeddings[:0]).tolist() == []


@pytest.mark.parametrize("candidates", [nearest.CANDIDATES, 0], ids=["among few", "among all"])
def test_of_equal_cosines_the_lowest_id_is_found(
    bounded: bool, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "CANDIDATES", candidates)
    signs = drawn(60, HIDDEN, seed=2).sign() * (torch.arange(HIDDEN) < 256)  # of length 16, so that cosines are exact
    vocabulary = torch.cat([signs, 2 * signs, signs.flip(0), 0 * signs])
    found = NearestTokens(vocabulary)(torch.cat([3 * signs, torch.zeros(2, HIDDEN)]))
    assert found.tolist() == [*range(60), 0, 0]


def test_what_is_not_a_number_is_nearest_to_the_first(bounded: bool) -> None:
    vocabulary = drawn(50, HIDDEN, seed=3)
    embeddings = torch.stack([vocabulary[7], torch.full((HIDDEN,), torch.nan)])
    assert NearestTokens(vocabulary)(embeddings).tolist() == plain(embeddings, vocabulary) == [7, 0]


def test_no_step_holds_more_than_it_may(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = drawn(400, HIDDEN, seed=4)
    search, most = NearestTokens(vocabulary), 0
    argmax = torch.Tensor.argmax

    def watched(tensor: torch.Tensor, *args: object) -> torch.Tensor:
        nonlocal most
        most = max(most, tensor.numel())
        return argmax(tensor, *args)

    monkeypatch.setattr(torch.Tensor, "argmax", watched)
    search(vocabulary)
    assert 0 < most <= 5000
