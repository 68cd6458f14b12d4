import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from narrowband.codec.bitstream import STREAM_BITS
from narrowband.evaluation.token_ids import PredictedTokenId, TokenId, UnigramTokenId, code_lengths
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.nearest import NearestTokens

CODED = torch.tensor([[False, True, True, True, True, True], [False, False, False, True, True, False]])
IDS = torch.arange(12).reshape(2, 6) * 41


@pytest.fixture
def vocabulary() -> torch.Tensor:
    return torch.randn(500, 12, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize(("entries", "depth"), [(2, 1), (2048, 11), (2049, 12), (128256, 17)])
def test_a_token_id_costs_the_logarithm_of_the_vocabulary(entries: int, depth: int) -> None:
    assert TokenId(NearestTokens(torch.zeros(entries, 1))).bits(torch.zeros(2, 6, 1), CODED) == 7 * depth


def test_token_ids_lose_nothing_and_leave_what_is_not_coded(vocabulary: torch.Tensor) -> None:
    embeddings = vocabulary[IDS]
    assert torch.equal(TokenId(NearestTokens(vocabulary))(embeddings, CODED), embeddings)
    other = embeddings + 1
    assert torch.equal(TokenId(NearestTokens(vocabulary))(other, CODED)[~CODED], other[~CODED])


def test_frequent_tokens_cost_less_and_unseen_ones_have_a_length(vocabulary: torch.Tensor) -> None:
    counts = torch.zeros(500, dtype=torch.long)
    counts[41], counts[82] = 700, 50
    lengths = code_lengths(counts)
    weights = (counts.numpy() + 0.5) / (750 + 250)
    np.testing.assert_allclose(lengths, -np.log2(weights))
    assert np.exp2(-lengths.numpy()).sum() == pytest.approx(1)
    ids = IDS[CODED].numpy()
    bits = UnigramTokenId(NearestTokens(vocabulary), lengths).bits(vocabulary[IDS], CODED)
    assert bits == math.ceil(-np.log2(weights[ids]).sum()) + 2 * STREAM_BITS


@pytest.mark.parametrize("before", [(), (3,), (5, 6, 7)])
def test_the_base_models_code_length_is_its_cross_entropy_token_by_token(lm: FrozenLM, before: tuple[int, ...]) -> None:
    system = PredictedTokenId(lm.nearest, lm, before)
    expected = 0.0
    for row, on in zip(IDS, CODED, strict=True):
        sent = row[on].tolist()
        for i, token in enumerate(sent):
            known = [*before, *sent[:i]]
            if known:
                logits = lm.model(torch.tensor([known])).logits[0, -1]
                expected -= float(F.log_softmax(logits, -1)[token]) / math.log(2)
            else:
                expected += math.log2(len(lm.vocabulary))
    bits = system.bits(lm.embed(IDS), CODED)
    assert bits - 2 * STREAM_BITS == pytest.approx(expected, abs=1.01)


def test_padding_in_front_costs_nothing(lm: FrozenLM) -> None:
    system = PredictedTokenId(lm.nearest, lm, (3,))
    ids, coded = torch.tensor([[3, 10, 11, 12]]), torch.tensor([[False, True, True, True]])
    padded, later = F.pad(ids, (4, 0), value=lm.pad_id), F.pad(coded, (4, 0))
    assert system.bits(lm.embed(ids), coded) == system.bits(lm.embed(padded), later)
