import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.random_projection import GaussianRandomProjection

from narrowband.codec.pca import PCA
from narrowband.codec.windows import cut
from narrowband.evaluation.answer import System
from narrowband.evaluation.baselines import MeanVector, RandomProjection, Truncation

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
    return fit(windows)


def fit(windows: torch.Tensor, seed: int = 0) -> RandomProjection:
    covariance = torch.from_numpy(np.cov(windows.double().numpy(), rowvar=False))
    return RandomProjection.fit(windows.double().mean(0), covariance, 5, WINDOW, seed)


def test_truncation_keeps_the_first_components_as_float16(embeddings: torch.Tensor) -> None:
    sent = Truncation(4)(embeddings, CODED)
    expected = np.zeros((7, HIDDEN), dtype=np.float32)
    expected[:, :4] = embeddings[CODED].numpy()[:, :4].astype(np.float16)
    np.testing.assert_array_equal(sent[CODED], expected)
    assert Truncation(4).bits(embeddings, CODED) == 7 * 4 * 16


def test_the_control_sends_nothing_and_leaves_other_tokens_alone(embeddings: torch.Tensor) -> None:
    mean = torch.arange(HIDDEN, dtype=torch.float32)
    read = MeanVector(mean)(embeddings, CODED)
    assert (read[CODED] == mean).all() and torch.equal(read[~CODED], embeddings[~CODED])
    assert MeanVector(mean).bits(embeddings, CODED) == 0


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
    again = fit(windows)
    assert torch.equal(again.decoder, projection.decoder) and torch.equal(again.directions, projection.directions)
    assert not torch.equal(fit(windows, seed=1).directions, projection.directions)
    tokens = windows.reshape(1, -1, HIDDEN)
    rebuilt = projection(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)).reshape(windows.shape)
    principal = pca.decode(pca.encode(windows))
    variance = (windows - windows.mean(0)).square().sum()
    assert (principal - windows).square().sum() < (rebuilt - windows).square().sum() < variance


def test_the_rate_of_the_random_projection_counts_filled_up_windows(projection: RandomProjection) -> None:
    assert projection.bits(EMPTY, CODED) == (3 + 1) * 5 * 16


@pytest.mark.parametrize("name", ["truncation", "projection"])
def test_what_is_not_coded_stays_as_it_is(name: str, embeddings: torch.Tensor, projection: RandomProjection) -> None:
    systems: dict[str, System] = {"truncation": Truncation(3), "projection": projection}
    before = embeddings.clone()
    sent = systems[name](embeddings, CODED)
    assert torch.equal(sent[~CODED], before[~CODED]) and torch.equal(embeddings, before)
    assert not torch.equal(cut(sent, CODED, WINDOW), cut(before, CODED, WINDOW))
