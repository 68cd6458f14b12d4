import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.random_projection import GaussianRandomProjection

from narrowband.codec.pca import PCA
from narrowband.codec.windows import cut
from narrowband.evaluation.answer import System
from narrowband.evaluation.baselines import RandomProjection, ScalarQuantizer, Snapped, TokenId, Truncation
from narrowband.lm.nearest import NearestTokens

HIDDEN = 12
WINDOW = 2
CODED = torch.tensor([[False, True, True, True, True, True], [False, False, False, True, True, False]])
EMPTY = torch.zeros(2, 6, HIDDEN)
"""No fixed rate depends on what is sent."""


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def embeddings() -> torch.Tensor:
    return normal(2, 6, HIDDEN, seed=1) * 0.05


@pytest.fixture
def windows() -> torch.Tensor:
    """Training windows whose components are correlated and not centred."""
    return normal(400, WINDOW * HIDDEN, seed=2) @ normal(WINDOW * HIDDEN, WINDOW * HIDDEN, seed=3) * 0.05 + 0.2


@pytest.fixture
def projection(windows: torch.Tensor) -> RandomProjection:
    return RandomProjection.fit(windows.split(64), PCA.fit(windows, 5), WINDOW, seed=0)


def test_truncation_keeps_the_first_components_as_float16(embeddings: torch.Tensor) -> None:
    sent = Truncation(4)(embeddings, CODED)
    expected = np.zeros((7, HIDDEN), dtype=np.float32)
    expected[:, :4] = embeddings[CODED].numpy()[:, :4].astype(np.float16)
    np.testing.assert_array_equal(sent[CODED], expected)
    assert Truncation(4).bits(embeddings, CODED) == 7 * 4 * 16


def test_the_decoder_of_the_random_projection_is_scikit_learns_regression(
    projection: RandomProjection, windows: torch.Tensor
) -> None:
    mean = windows.double().mean(0).numpy()
    reference = GaussianRandomProjection(5).fit(windows.numpy())
    reference.components_ = projection.directions.double().numpy()
    latents = reference.transform(windows.double().numpy() - mean)
    regression = LinearRegression(fit_intercept=False).fit(latents, windows.double().numpy() - mean)
    np.testing.assert_allclose(projection.decoder.T, regression.coef_, atol=1e-4)
    other = normal(1, 4, HIDDEN, seed=4) * 0.3
    coded = torch.ones(1, 4, dtype=torch.bool)
    predicted = regression.predict(reference.transform(other.reshape(2, -1).double().numpy() - mean)) + mean
    np.testing.assert_allclose(projection(other, coded).reshape(2, -1), predicted, atol=2e-3)  # float16 latents


def test_random_directions_come_from_the_seed_and_lose_more_than_principal_ones(
    projection: RandomProjection, windows: torch.Tensor
) -> None:
    pca = PCA.fit(windows, 5)
    again = RandomProjection.fit([windows], pca, WINDOW, seed=0)
    torch.testing.assert_close(again.decoder, projection.decoder, rtol=1e-3, atol=1e-4)
    assert torch.equal(again.directions, projection.directions)
    assert not torch.equal(RandomProjection.fit([windows], pca, WINDOW, seed=1).directions, projection.directions)
    tokens = windows.reshape(1, -1, HIDDEN)
    rebuilt = projection(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)).reshape(windows.shape)
    principal = pca.decode(pca.encode(windows))
    variance = (windows - windows.mean(0)).square().sum()
    assert (principal - windows).square().sum() < (rebuilt - windows).square().sum() < variance


def test_the_rate_of_the_random_projection_counts_filled_up_windows(projection: RandomProjection) -> None:
    assert projection.bits(EMPTY, CODED) == (3 + 1) * 5 * 16


@pytest.mark.parametrize("depth", [8, 4, 2, 1])
def test_the_scalar_quantiser_agrees_with_torchs(embeddings: torch.Tensor, depth: int) -> None:
    tokens = embeddings[CODED]
    low = tokens.amin(-1).half().float()
    cell = ((tokens.amax(-1) - low) / 2**depth).half().float()
    reference = torch.fake_quantize_per_channel_affine(tokens, cell, -low / cell - 0.5, 0, 0, 2**depth - 1)
    sent = ScalarQuantizer(depth, HIDDEN)(embeddings, CODED)[CODED]
    # A component at the edge of two cells may be rounded to either; its error is the same.
    torch.testing.assert_close((sent - tokens).abs(), (reference - tokens).abs(), rtol=0, atol=1e-6)
    assert max(len(row.unique()) for row in sent) <= 2**depth


def test_the_scalar_quantiser_counts_its_side_information() -> None:
    assert ScalarQuantizer(4, HIDDEN).bits(EMPTY, CODED) == 7 * (HIDDEN * 4 + 32)


def test_the_scalar_quantiser_takes_an_embedding_of_equal_components() -> None:
    flat = torch.full((1, 1, HIDDEN), 0.5)
    coded = torch.ones(1, 1, dtype=torch.bool)
    torch.testing.assert_close(ScalarQuantizer(2, HIDDEN)(flat, coded), flat)


def test_snapping_takes_the_neighbour_by_cosine_and_costs_nothing_more(embeddings: torch.Tensor) -> None:
    vocabulary = normal(50, HIDDEN, seed=5) * torch.linspace(0.1, 9, 50)[:, None]
    system = Truncation(6)
    snapped = Snapped(system, vocabulary, NearestTokens(vocabulary))
    search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vocabulary.numpy())
    nearest = search.kneighbors(system(embeddings, CODED)[CODED].numpy(), return_distance=False)[:, 0]
    assert torch.equal(snapped(embeddings, CODED)[CODED], vocabulary[nearest])
    assert snapped.bits(EMPTY, CODED) == system.bits(EMPTY, CODED)


@pytest.mark.parametrize(("entries", "depth"), [(2, 1), (2048, 11), (2049, 12), (128256, 17)])
def test_a_token_id_costs_the_logarithm_of_the_vocabulary(entries: int, depth: int) -> None:
    vocabulary = torch.zeros(entries, 1)
    assert TokenId(vocabulary, NearestTokens(vocabulary)).bits(EMPTY, CODED) == 7 * depth


def test_token_ids_lose_nothing() -> None:
    vocabulary = normal(500, HIDDEN, seed=6)
    embeddings = vocabulary[torch.arange(12).reshape(2, 6) * 41]
    assert torch.equal(TokenId(vocabulary, NearestTokens(vocabulary))(embeddings, CODED), embeddings)


@pytest.mark.parametrize("name", ["truncation", "projection", "quantizer", "snapped", "token id"])
def test_what_is_not_coded_stays_as_it_is(name: str, embeddings: torch.Tensor, projection: RandomProjection) -> None:
    vocabulary = normal(20, HIDDEN, seed=7)
    systems: dict[str, System] = {
        "truncation": Truncation(3),
        "projection": projection,
        "quantizer": ScalarQuantizer(2, HIDDEN),
        "snapped": Snapped(projection, vocabulary, NearestTokens(vocabulary)),
        "token id": TokenId(vocabulary, NearestTokens(vocabulary)),
    }
    before = embeddings.clone()
    sent = systems[name](embeddings, CODED)
    assert torch.equal(sent[~CODED], before[~CODED]) and torch.equal(embeddings, before)
    assert not torch.equal(cut(sent, CODED, WINDOW), cut(before, CODED, WINDOW))
    assert math.isfinite(float(sent.sum()))
