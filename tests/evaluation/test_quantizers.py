import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.cluster.vq import vq
from sklearn.metrics import pairwise_distances_argmin

from narrowband.codec.bitstream import STREAM_BITS
from narrowband.codec.entropy import EntropyModel
from narrowband.evaluation.answer import System
from narrowband.evaluation.quantizers import (
    MOST_STAGES,
    RotationQuantizer,
    Sample,
    ScalarQuantizer,
    VectorQuantizer,
    cells,
    codebook,
    left_by,
    lloyd_max,
    product_stages,
    thresholds,
)

HIDDEN = 12
CODED = torch.tensor([[False, True, True, True, True, True], [False, False, False, True, True, False]])
COUNTS = torch.arange(1, 301)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tokens() -> torch.Tensor:
    """Distinct training tokens, whose components vary unequally."""
    return normal(300, HIDDEN) * torch.linspace(2, 0.2, HIDDEN)


@pytest.fixture
def embeddings(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[torch.arange(12).reshape(2, 6) * 23] + 0.01 * normal(2, 6, HIDDEN, seed=1)


def test_the_step_of_the_scalar_quantiser_spends_what_it_is_told_and_its_error_is_a_uniform_ones() -> None:
    drawn = normal(4_000, HIDDEN) * 3
    quantizer = ScalarQuantizer(EntropyModel.fit_rate(drawn, 4.0 * HIDDEN))
    other, coded = normal(1, 4_000, HIDDEN, seed=2) * 3, torch.ones(1, 4_000, dtype=torch.bool)
    assert quantizer.bits(other, coded) == pytest.approx(4_000 * HIDDEN * 4, rel=0.01)
    # At high rates a uniform quantiser of a Gaussian with ideal coding has an error of (pi e / 6) 2^(-2R) of the variance.
    error = float((quantizer(other, coded) - other).square().mean()) / 9
    assert error == pytest.approx(math.pi * math.e / 6 * 2**-8, rel=0.03)


def test_the_scalar_quantiser_costs_the_entropy_of_its_symbols_and_a_header(tokens: torch.Tensor) -> None:
    model = EntropyModel.fit(tokens, 0.5)
    symbols = np.round(tokens.double().numpy() / 0.5)
    entropy = sum(scipy.stats.entropy(np.unique(column, return_counts=True)[1], base=2) for column in symbols.T)
    bits = ScalarQuantizer(model).bits(tokens[None], torch.ones(1, 300, dtype=torch.bool))
    assert bits == pytest.approx(300 * entropy + STREAM_BITS, rel=0.05)


def test_each_stage_of_the_residual_quantiser_sends_the_word_nearest_to_what_is_left(
    tokens: torch.Tensor, embeddings: torch.Tensor
) -> None:
    quantizer = VectorQuantizer.residual(Sample(tokens, COUNTS, COUNTS), 9.0, seed=0)
    assert len(quantizer.codebooks) > 1
    left, expected = embeddings[CODED].numpy(), np.zeros((7, HIDDEN), np.float32)
    for book in quantizer.codebooks:
        index, _ = vq(left, book.numpy())
        left, expected = left - book.numpy()[index], expected + book.numpy()[index]
    np.testing.assert_allclose(quantizer(embeddings, CODED)[CODED], expected, atol=1e-5)


@pytest.mark.parametrize("allowed", [1.0, 2.5, 6.0, 7.3])
@pytest.mark.parametrize("sent", [COUNTS, COUNTS.flip(0), COUNTS * (COUNTS % 3 == 0)])
def test_what_is_sent_costs_the_entropy_of_its_words_and_spends_what_was_allowed(
    tokens: torch.Tensor, sent: torch.Tensor, allowed: float
) -> None:
    quantizer = VectorQuantizer.residual(Sample(tokens, COUNTS, sent), allowed, seed=0)
    entropy = sum(scipy.stats.entropy(np.bincount(index, weights=sent), base=2) for index in quantizer.indices(tokens))
    assert len(quantizer.codebooks) < MOST_STAGES and allowed - 1 < entropy <= allowed
    ideal = sum(
        float(bits[i] @ sent.double()) for bits, i in zip(quantizer.lengths, quantizer.indices(tokens), strict=True)
    )
    assert ideal / sent.sum() == pytest.approx(entropy, rel=0.02)


def test_a_residual_quantiser_with_bits_to_spare_tells_all_vectors_apart_and_stops(tokens: torch.Tensor) -> None:
    quantizer = VectorQuantizer.residual(Sample(tokens, COUNTS, COUNTS), 100.0, seed=0)
    assert len(quantizer.codebooks) < 4
    rebuilt = quantizer(tokens[None], torch.ones(1, 300, dtype=torch.bool))[0]
    np.testing.assert_array_equal(pairwise_distances_argmin(rebuilt, tokens), np.arange(300))


@pytest.mark.parametrize("sent", [COUNTS, COUNTS * (COUNTS % 3 == 0)])
def test_parts_of_the_product_quantiser_are_quantised_each_for_itself(
    tokens: torch.Tensor, embeddings: torch.Tensor, sent: torch.Tensor
) -> None:
    quantizer = VectorQuantizer.product(Sample(tokens, COUNTS, sent), 20.0, seed=0)
    rebuilt, parts = (
        quantizer(embeddings, CODED)[CODED].numpy(),
        np.array_split(np.arange(HIDDEN), len(quantizer.codebooks)),
    )
    for part, book in zip(parts, quantizer.codebooks, strict=True):
        words = codebook(tokens[:, part], COUNTS, int(np.log2(len(book))), seed=0).numpy()
        np.testing.assert_array_equal(book[:, part], words)
        index, _ = vq(embeddings[CODED].numpy()[:, part], words)
        np.testing.assert_allclose(rebuilt[:, part], words[index], atol=1e-6)


@pytest.mark.parametrize("allowed", [6.0, 11.0, 16.0, 21.0])
@pytest.mark.parametrize("sent", [COUNTS, COUNTS * (COUNTS % 3 == 0)])
def test_the_product_quantiser_makes_the_most_of_what_was_allowed(
    tokens: torch.Tensor, sent: torch.Tensor, allowed: float
) -> None:
    sample = Sample(tokens, COUNTS, sent)
    quantizer = VectorQuantizer.product(sample, allowed, seed=0)
    entropy = sum(scipy.stats.entropy(np.bincount(index, weights=sent), base=2) for index in quantizer.indices(tokens))
    assert entropy <= allowed
    error = sample.energy(tokens - quantizer(tokens[None], torch.ones(1, 300, dtype=torch.bool))[0])
    of_that_log2 = [
        sample.energy(left_by(product_stages(sample, bits, 0), tokens)) for bits in (int(allowed), min(int(allowed), 8))
    ]
    assert error <= min(of_that_log2) * (1 + 1e-6)


def test_one_part_more_with_smaller_codebooks_is_no_step_back(tokens: torch.Tensor) -> None:
    """Nine index bits are a full codebook for all components, or two of 4 and 5 bits for half of them each."""
    spread = torch.cat(
        [tokens[:, :6], tokens[:, :6]], 1
    )  # halves that tell the same, so that one codebook for both is better
    sample = Sample(spread, COUNTS, torch.ones(300, dtype=torch.long))
    errors = [sample.energy(left_by(product_stages(sample, bits, 0), spread)) for bits in (8, 9)]
    assert errors[0] < errors[1] and sum(stage.bits for stage in product_stages(sample, 9, 0)) < 9
    assert len(VectorQuantizer.product(sample, 9.0, seed=0).codebooks) == 1


def test_a_word_is_the_mean_of_its_vectors_by_how_often_they_occur() -> None:
    vectors, counts = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([3, 1, 5])
    assert codebook(vectors, counts, 1, seed=0).flatten().sort().values.tolist() == [0.25, 10]


@pytest.mark.parametrize(
    ("levels", "error", "entropy"), [(2, 0.3634, 1.0), (4, 0.1175, 1.911), (8, 0.03454, 2.825), (16, 0.009497, 3.765)]
)
def test_the_points_for_a_gaussian_are_those_of_the_literature(levels: int, error: float, entropy: float) -> None:
    """Max, Quantizing for minimum distortion, IRE Transactions on Information Theory 6(1), 1960, table I."""
    points = lloyd_max(levels)
    sample = scipy.stats.norm.ppf((np.arange(2_000_000) + 0.5) / 2_000_000)
    index = np.searchsorted(thresholds(points).numpy(), sample)
    assert np.mean((sample - points.numpy()[index]) ** 2) == pytest.approx(error, rel=2e-3)
    assert scipy.stats.entropy(cells(points).numpy(), base=2) == pytest.approx(entropy, abs=1e-3)


@pytest.mark.parametrize(("depth", "error"), [(1, 0.3634), (2, 0.1175)])
def test_a_rotated_vector_has_the_error_of_a_gaussian_whatever_it_was(depth: int, error: float) -> None:
    quantizer = RotationQuantizer.draw(256, depth, seed=0)
    torch.testing.assert_close(quantizer.rotation @ quantizer.rotation.T, torch.eye(256), rtol=0, atol=1e-5)
    spiky = torch.eye(256)[None] * 7  # the worst there is without a rotation
    coded = torch.ones(1, 256, dtype=torch.bool)
    assert float((quantizer(spiky, coded) - spiky).square().sum(-1).mean()) / 49 == pytest.approx(error, rel=0.02)
    entropy = scipy.stats.entropy(cells(lloyd_max(2**depth)).numpy(), base=2)
    assert quantizer.bits(spiky, coded) == pytest.approx(256 * (256 * entropy + 16) + STREAM_BITS, rel=0.01)


@pytest.mark.parametrize("name", ["scalar", "residual", "product", "rotation"])
def test_what_is_not_coded_stays_as_it_is(name: str, embeddings: torch.Tensor, tokens: torch.Tensor) -> None:
    systems: dict[str, System] = {
        "scalar": ScalarQuantizer(EntropyModel.fit(tokens, 1.0)),
        "residual": VectorQuantizer.residual(Sample(tokens, COUNTS, COUNTS), 6.0, seed=0),
        "product": VectorQuantizer.product(Sample(tokens, COUNTS, COUNTS), 12.0, seed=0),
        "rotation": RotationQuantizer.draw(HIDDEN, 1, seed=0),
    }
    before, system = embeddings.clone(), systems[name]
    sent = system(embeddings, CODED)
    assert torch.equal(sent[~CODED], before[~CODED]) and torch.equal(embeddings, before)
    assert not torch.equal(sent[CODED], before[CODED])
    alone = [system.bits(embeddings[i : i + 1], CODED[i : i + 1]) for i in range(2)]
    assert system.bits(embeddings, CODED) == pytest.approx(sum(alone), abs=1)  # each prompt has a header of its own
