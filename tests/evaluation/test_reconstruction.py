import math

import pytest
import torch

from narrowband.evaluation.reconstruction import Quality, nearest_tokens
from narrowband.evaluation.significance import interval


def test_means_by_hand_over_batches_of_different_sizes() -> None:
    vocabulary = torch.eye(3)
    quality = Quality()
    quality.add(vocabulary[:2], torch.tensor([[2.0, 0, 0], [0, 0, 1.0]]), torch.tensor([0, 1]), vocabulary)
    quality.add(vocabulary[2:], torch.tensor([[1.0, 0, 1.0]]), torch.tensor([2]), vocabulary)
    means = quality.means()
    assert means["cosine"] == pytest.approx((1 + 0 + 1 / math.sqrt(2)) / 3)
    assert means["norm_ratio"] == pytest.approx((2 + 1 + math.sqrt(2)) / 3)
    assert means["mse"] == pytest.approx((1 + 2 + 1) / 9)
    assert means["relative_error"] == pytest.approx((1 + math.sqrt(2) + 1) / 3)


def test_nearest_token_is_by_cosine_not_by_distance() -> None:
    vocabulary = torch.tensor([[1.0, 0.0], [10.0, 10.0]])
    assert nearest_tokens(torch.tensor([[0.1, 0.09], [5.0, 0.1]]), vocabulary).tolist() == [1, 0]


def test_token_match_of_the_embeddings_themselves_is_everything() -> None:
    vocabulary = torch.randn(50, 8)
    quality = Quality()
    quality.add(vocabulary, 3 * vocabulary, torch.arange(50), vocabulary)
    assert quality.means()["token_match"] == 100


def test_bootstrap_interval_agrees_with_the_normal_one_and_repeats() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).tolist()
    mean, error = sum(values) / 1000, torch.tensor(values).std().item() / math.sqrt(1000)
    found = interval(values, seed=1)
    low, high = found["low"], found["high"]
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    assert interval(values, seed=1) == found
