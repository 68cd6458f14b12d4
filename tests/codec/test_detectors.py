from collections.abc import Iterable

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from narrowband.codec import detectors
from narrowband.codec.detectors import OWN_SCORE, RIDGE, Detectors, Sample

HIDDEN, N = 6, 400


def tokens_around_means(n_tokens: int = 5) -> list[Sample]:
    """Two batches of noisy tokens, 0 being the rarest; what was lost depends on the token."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(n_tokens, (N,), generator=draw).maximum(torch.randint(n_tokens, (N,), generator=draw))
    inputs = torch.randn(n_tokens, HIDDEN, generator=draw)[ids] + 0.3 * torch.randn(N, HIDDEN, generator=draw)
    lost = torch.randn(n_tokens, HIDDEN, generator=draw)[ids] + 0.1 * torch.randn(N, HIDDEN, generator=draw)
    rms = 0.5 + torch.rand(N, 1, generator=draw)
    return [Sample(*parts) for parts in zip(*(part.split(N // 2) for part in (ids, inputs, lost, rms)), strict=True)]


def joined(samples: Iterable[Sample]) -> Sample:
    return Sample(*(torch.cat(parts) for parts in zip(*samples, strict=True)))


def fitted(samples: list[Sample], width: int, tokens: list[int]) -> Detectors:
    found = Detectors(HIDDEN, width)
    found.fit(lambda: samples, torch.tensor(tokens))
    return found


def test_detectors_are_scikit_learns_linear_discriminants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "SHRINKAGE", 0.0)
    samples, order = tokens_around_means(), [4, 2, 0, 3, 1]
    found, whole = fitted(samples, 5, order), joined(samples)
    centre = whole.inputs.mean(0)
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(whole.inputs - centre, whole.ids)
    directions, means = torch.from_numpy(reference.coef_)[order], torch.from_numpy(reference.means_)[order]
    scores = OWN_SCORE * directions / ((directions * means).sum(1, keepdim=True) / 2)
    torch.testing.assert_close(found.directions, scores.float(), rtol=1e-4, atol=1e-4)
    own = ((means + centre).float() * found.directions).sum(1) + found.biases
    torch.testing.assert_close(own, torch.full((5,), OWN_SCORE))
    torch.testing.assert_close(found.directions @ centre + found.biases, torch.full((5,), -OWN_SCORE))


def test_additions_are_scikit_learns_ridge_regression() -> None:
    samples = tokens_around_means()
    found, whole = fitted(samples, 3, [4, 3, 2]), joined(samples)
    fired = torch.nn.functional.gelu(whole.inputs @ found.directions.T + found.biases)
    features = torch.cat([fired, torch.ones(N, 1)], 1).double().numpy()
    weights = whole.rms[:, 0].double().numpy() ** -2
    alpha = RIDGE * (weights[:, None] * features**2).sum(0).mean()
    ridge = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky").fit(features, whole.lost, sample_weight=weights)
    expected = torch.from_numpy(ridge.predict(features)).float()
    torch.testing.assert_close(found(whole.inputs), expected, rtol=1e-3, atol=1e-4)


def test_they_recover_most_of_what_was_lost_of_tokens_they_were_not_fitted_on() -> None:
    first, second = tokens_around_means()
    found = fitted([first], 5, [4, 3, 2, 1, 0])
    left = (second.lost - found(second.inputs)).square().mean()
    assert left < 0.2 * second.lost.square().mean()


def test_nothing_is_added_before_the_fit_or_if_nothing_was_lost() -> None:
    samples = tokens_around_means()
    assert not Detectors(HIDDEN, 3)(samples[0].inputs).any()
    whole = [sample._replace(lost=torch.zeros_like(sample.lost)) for sample in samples]
    assert not fitted(whole, 3, [4, 3, 2])(samples[0].inputs).any()


def test_detectors_without_a_token_never_fire() -> None:
    samples = tokens_around_means()
    found = fitted(samples, 9, [4, 3, 2, 1, 0])
    exact = fitted(samples, 5, [4, 3, 2, 1, 0])
    torch.testing.assert_close(found(samples[0].inputs), exact(samples[0].inputs), rtol=0.01, atol=0.01)
    found.fit(lambda: samples, torch.tensor([4, 3]))  # again, for fewer tokens
    assert not found.directions[2:].any()
    assert not found.additions[:, 2:].any()


def test_an_original_of_length_0_does_not_outweigh_all_others() -> None:
    samples = tokens_around_means()
    empty = Sample(torch.tensor([4]), torch.ones(1, HIDDEN), torch.ones(1, HIDDEN), torch.zeros(1, 1))
    found, usual = fitted([*samples, empty], 5, [4, 3, 2, 1, 0]), samples[0]
    assert (usual.lost - found(usual.inputs)).square().mean() < 0.5 * usual.lost.square().mean()


def test_tokens_without_noise_around_their_mean_are_fitted() -> None:
    """At window 1, all reconstructions of a token are equal."""
    samples = [
        sample._replace(inputs=torch.eye(HIDDEN)[sample.ids], lost=torch.eye(HIDDEN)[-1 - sample.ids])
        for sample in tokens_around_means()
    ]
    found = fitted(samples, 5, [4, 3, 2, 1, 0])
    torch.testing.assert_close(found(samples[0].inputs), samples[0].lost, atol=0.02, rtol=0)
