import math

import pytest
import torch

from narrowband.evaluation.reconstruction import Quality
from narrowband.lm.nearest import NearestTokens


def test_means_by_hand_over_batches_of_different_sizes() -> None:
    vocabulary = torch.eye(3)
    quality = Quality()
    for ids, rebuilt, nearest in (([0, 1], [[2.0, 0, 0], [0, 0, 1.0]], [0, 2]), ([2], [[1.0, 0, 1.0]], [2])):
        quality.add(vocabulary[ids], torch.tensor(rebuilt), torch.tensor(ids))
        quality.match(torch.tensor(nearest), torch.tensor(ids))
    means = quality.means()
    assert means["token_match"] == pytest.approx(200 / 3)
    assert means["cosine"] == pytest.approx((1 + 0 + 1 / math.sqrt(2)) / 3)
    assert means["norm_ratio"] == pytest.approx((2 + 1 + math.sqrt(2)) / 3)
    assert means["mse"] == pytest.approx((1 + 2 + 1) / 9)
    assert means["relative_error"] == pytest.approx((1 + math.sqrt(2) + 1) / 3)


def test_token_match_of_the_embeddings_themselves_is_everything() -> None:
    vocabulary = torch.randn(50, 8)
    quality = Quality()
    quality.match(NearestTokens(vocabulary)(3 * vocabulary), torch.arange(50))
    assert quality.means()["token_match"] == 100


def test_tokens_that_training_saw_and_others_are_told_apart() -> None:
    vocabulary = torch.eye(3)
    quality, rest = Quality(seen=torch.tensor([0, 2])), Quality(seen=torch.tensor([0, 2]))
    rebuilt = torch.tensor([[1.0, 0, 0], [0, 3.0, 4.0], [1.0, 0, 0]])
    nearest = NearestTokens(vocabulary)
    ids, counts = torch.arange(3), torch.tensor([3, 2, 1])
    quality.add(vocabulary, rebuilt, ids, counts)
    quality.match(nearest(rebuilt), ids, counts)
    rest.add(vocabulary[1:2], vocabulary[1:2], ids[1:2])
    rest.match(ids[1:2], ids[1:2])
    quality.merge(rest)
    parts = quality.by_seen()
    assert parts["seen"] == pytest.approx({"cosine": 3 / 4, "token_match": 75})
    assert parts["unseen"] == pytest.approx({"share": 3 / 7, "cosine": (0.6 * 2 + 1) / 3, "token_match": 100 / 3})


def test_where_all_tokens_were_seen_there_is_a_share_and_nothing_else() -> None:
    quality = Quality(seen=torch.tensor([0]))
    quality.add(torch.eye(1), torch.eye(1), torch.tensor([0]))
    quality.match(torch.tensor([0]), torch.tensor([0]))
    assert quality.by_seen() == {"seen": {"cosine": 1, "token_match": 100}, "unseen": {"share": 0}}


def test_every_other_token_may_be_searched_for() -> None:
    vocabulary, ids = torch.eye(5), torch.arange(5)
    rebuilt = torch.stack([vocabulary[0], vocabulary[0], vocabulary[0], vocabulary[3], vocabulary[4]])
    quality = Quality(seen=torch.tensor([0, 1, 3]))
    nearest = NearestTokens(vocabulary)(rebuilt)[::2]  # of 0, 2 and 4
    quality.add(vocabulary, rebuilt, ids)
    quality.match(nearest, ids[::2])
    assert quality.count == 5
    assert quality.means()["cosine"] == pytest.approx(3 / 5)
    assert quality.means()["token_match"] == pytest.approx(200 / 3)
    parts = quality.by_seen()
    assert parts["seen"] == pytest.approx({"cosine": 2 / 3, "token_match": 100})
    assert parts["unseen"] == pytest.approx({"share": 2 / 5, "cosine": 1 / 2, "token_match": 50})
