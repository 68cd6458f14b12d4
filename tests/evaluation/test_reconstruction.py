import math

import pytest
import torch

from narrowband.evaluation.reconstruction import Quality, nearest_tokens


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
