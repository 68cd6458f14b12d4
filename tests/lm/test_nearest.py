"""The search for nearest tokens, against all cosines at once."""

import pytest
import torch
import torch.nn.functional as F

from narrowband.lm import nearest
from narrowband.lm.nearest import NearestTokens


def plain(embeddings: torch.Tensor, vocabulary: torch.Tensor) -> list[int]:
    return (F.normalize(embeddings, dim=-1) @ F.normalize(vocabulary, dim=-1).T).argmax(-1).tolist()


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["in blocks", "at once"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in blocks":
        monkeypatch.setattr(nearest, "COLUMNS", 17)
        monkeypatch.setattr(nearest, "MOST", 17 * 23)


def test_nearest_is_by_cosine_not_by_distance() -> None:
    search = NearestTokens(torch.tensor([[1.0, 0.0], [10.0, 10.0]]))
    assert search(torch.tensor([[0.1, 0.09], [5.0, 0.1]])).tolist() == [1, 0]


@pytest.mark.parametrize("noise", [0.0, 1.0, 9.0])
def test_the_nearest_are_those_of_all_cosines(blocks: None, noise: float) -> None:
    vocabulary = drawn(300, 24, seed=0) * torch.linspace(0.1, 9, 300)[:, None]
    embeddings = vocabulary[::3] + noise * drawn(100, 24, seed=1)
    assert NearestTokens(vocabulary)(embeddings).tolist() == plain(embeddings, vocabulary)
    assert NearestTokens(vocabulary)(embeddings[:0]).tolist() == []


def test_of_equal_cosines_the_lowest_id_is_found(blocks: None) -> None:
    signs = drawn(60, 64, seed=2).sign()  # of length 8, so that cosines are exact
    assert len(signs.unique(dim=0)) == 60
    vocabulary = torch.cat([0 * signs[:1], signs, 2 * signs, signs.flip(0)])
    embeddings = torch.cat([4 * signs, torch.zeros(2, 64)])
    found = NearestTokens(vocabulary)(embeddings).tolist()
    assert found == plain(embeddings, vocabulary) == [*range(1, 61), 0, 0]


def test_what_is_not_a_number_is_nearest_to_the_first(blocks: None) -> None:
    vocabulary = drawn(50, 8, seed=3)
    embeddings = torch.stack([vocabulary[17], torch.full((8,), torch.nan)])
    assert NearestTokens(vocabulary)(embeddings).tolist() == plain(embeddings, vocabulary) == [17, 0]


def test_no_more_cosines_than_allowed_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "COLUMNS", 100)
    monkeypatch.setattr(nearest, "MOST", 1000)
    vocabulary, sizes = drawn(350, 8, seed=4), []
    highest = torch.Tensor.max

    def watched(tensor: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(tensor.numel())
        return highest(tensor, dim)

    monkeypatch.setattr(torch.Tensor, "max", watched)
    NearestTokens(vocabulary)(vocabulary)
    assert sum(sizes) == 350 * 350 and max(sizes) <= 1000
