from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as ReferencePCA

from narrowband.codec.moments import streamed_moments
from narrowband.codec.pca import PCA
from narrowband.params import InputError


@pytest.fixture
def vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(3, 0.1, 40)
    mixing = torch.randn(40, 40, generator=generator)
    return torch.randn(500, 40, generator=generator) * scales @ mixing + 100


def test_fit_agrees_with_scikit_learn(vectors: torch.Tensor) -> None:
    pca = PCA.fit(vectors, 12)
    reference = ReferencePCA(12, svd_solver="full").fit(vectors.double().numpy())
    np.testing.assert_allclose(np.abs((pca.components.double().numpy() * reference.components_).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(pca.explained_variance, reference.explained_variance_, rtol=1e-4)
    assert pca.explained_share == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-5)
    np.testing.assert_allclose(
        pca.decode(pca.encode(vectors)), reference.inverse_transform(reference.transform(vectors.numpy())), atol=1e-2
    )


def test_share_is_of_the_total_variance_and_only_all_components_explain_all(vectors: torch.Tensor) -> None:
    # The original run divided the kept components by themselves and always read 100%.
    assert PCA.fit(vectors, 3).explained_share < 0.9
    whole = PCA.fit(vectors, 40)
    assert whole.explained_share == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(whole.decode(whole.encode(vectors)), vectors, rtol=0, atol=5e-3)


def test_save_and_load(vectors: torch.Tensor, tmp_path: Path) -> None:
    pca = PCA.fit(vectors, 5)
    pca.save(tmp_path, {"window": 2})
    loaded = PCA.load(tmp_path, {"window": 2})
    assert torch.equal(loaded.components, pca.components)
    assert loaded.components.shape == (5, 40) and loaded.mean.shape == (40,)
    assert loaded.explained_variance.shape == (5,) and loaded.total_variance.shape == (1,)


def test_moments_of_batches_are_those_of_all_vectors(vectors: torch.Tensor) -> None:
    mean, covariance = streamed_moments(vectors.split([1, 0, 199, 300]))
    np.testing.assert_allclose(mean, vectors.double().mean(0), rtol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(vectors.double().numpy().T), rtol=1e-4, atol=1e-4)
    whole, streamed = PCA.fit(vectors, 12), PCA.of_moments(mean, covariance, 12)
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(streamed.tensors[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 12])
def test_no_more_vectors_than_components_are_refused(vectors: torch.Tensor, n: int) -> None:
    with pytest.raises(InputError, match=f"needs more than 12 training windows but there are {n}"):
        PCA.fit(vectors[:n], 12)
