from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from narrowband.codec.codec import Codec
from narrowband.codec.coder import LatentCoder, Rate
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.windows import cut, token_places
from narrowband.evaluation.baselines import lookups
from narrowband.evaluation.lookup import Lookup
from narrowband.lm.nearest import NearestTokens
from narrowband.params import LatentCoding, Params

HIDDEN = 8


def vocabulary(entries: int) -> torch.Tensor:
    return torch.randn(entries, HIDDEN, generator=torch.Generator().manual_seed(0)) + 0.3


def codec(params: Params, table: torch.Tensor, window: int, compress: int, step: float = 0) -> Codec:
    """PCA without adapter; entropy-coded if there is a step."""
    coding = LatentCoding(kind="entropy" if step else "fixed", bits_per_token=8, step=step)
    update = {"window": window, "compress_dim": compress, "latent_coding": coding}
    config = CodecConfig.of(params.model_copy(update=update))
    windows = torch.randint(len(table), (600, window), generator=torch.Generator().manual_seed(1))
    pca = PCA.fit(table, compress, windows)
    coder = (
        LatentCoder.fit(pca, table, windows, Rate(config.latent_coding, config.magnitude, torch.full((20,), 30)))
        if step
        else None
    )
    return Codec(pca, config, coder, pca_only=True)


def lookup(pca: Codec, table: torch.Tensor) -> Lookup:
    return Lookup.fit(
        pca, NearestTokens(table), torch.ones(len(table), dtype=torch.long), windows_of(table, pca.window)
    )


def windows_of(table: torch.Tensor, window: int) -> torch.Tensor:
    return table[torch.randint(len(table), (600, window), generator=torch.Generator().manual_seed(1))].flatten(1)


def prompt(table: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with one in front that is not coded."""
    ids = torch.randint(len(table), (2, length + 1), generator=torch.Generator().manual_seed(2))
    coded = torch.ones(2, length + 1, dtype=torch.bool)
    coded[:, 0] = coded[1, -1] = False
    return table[ids], coded


def test_float16_numbers_that_hardly_differ_are_told_apart(params: Params) -> None:
    """Latents of large norms and small distances, which products in float32 lose."""
    table = torch.zeros(400, HIDDEN)
    table[:, 0], table[:, 1] = torch.tensor([30.0, -30.0]).repeat(200), torch.linspace(-1, 1, 400)
    pca = codec(params, table, 1, 2)
    received = pca.received(table)
    assert len(received.unique(dim=0)) == len(table)
    coded = torch.ones(1, len(table), dtype=torch.bool)
    assert torch.equal(lookup(pca, table)(table[None], coded), table[None])


def test_magnitudes_which_it_does_not_read_are_not_counted(params: Params) -> None:
    table = vocabulary(60)
    embeddings, coded = prompt(table, 20)
    with_magnitudes = codec(params.model_copy(update={"magnitude": "token"}), table, 1, 4)
    known = SimpleNamespace(lm=SimpleNamespace(nearest=NearestTokens(table)))
    counts = torch.ones(len(table), dtype=torch.long)
    fitting = SimpleNamespace(
        pca=with_magnitudes, coder=None, answerer=known, counts=counts, windows=windows_of(table, 1)
    )
    (found,) = lookups(fitting).values()
    assert with_magnitudes.bits(embeddings, coded) == 5 * 16 * int(coded.sum())
    assert found.bits(embeddings, coded) == 4 * 16 * int(coded.sum())


def test_two_coarse_numbers_a_token_are_lossless_as_they_tell_all_tokens_apart(params: Params) -> None:
    table = vocabulary(200)
    embeddings, coded = prompt(table, 40)
    assert torch.equal(lookup(codec(params, table, 1, 2, step=0.01), table)(embeddings, coded), embeddings)


def test_at_window_1_it_is_the_nearest_neighbour_among_the_latents_that_arrive(params: Params) -> None:
    table = vocabulary(200)
    pca = codec(params, table, 1, 3, step=0.7)
    embeddings, coded = prompt(table, 40)
    arrived = pca.received(table)
    search = NearestNeighbors(n_neighbors=1).fit(arrived.numpy())
    noisy = embeddings + 0.05
    distances, _ = search.kneighbors(pca.received(noisy[coded]).numpy())
    found = lookup(pca, table)(noisy, coded)
    gap = pca.received(found[coded]) - pca.received(noisy[coded])
    np.testing.assert_allclose(gap.norm(dim=1), distances[:, 0], atol=1e-5)  # of equally near ones, any
    assert torch.equal(found[~coded], noisy[~coded])


@pytest.mark.parametrize("step", [0, 1.0])
def test_in_longer_windows_it_is_right_more_often_than_snapping(params: Params, step: float) -> None:
    table = vocabulary(12)
    pca = codec(params, table, 3, 8, step=step)
    embeddings, coded = prompt(table, 60)
    rebuilt = pca(embeddings, coded)[coded]
    snapped = table[NearestTokens(table)(rebuilt)]
    found = lookup(pca, table)(embeddings, coded)[coded]
    right = [(one == embeddings[coded]).all(1).sum() for one in (snapped, found)]
    assert right[0] < right[1]


def test_no_single_other_token_fits_better_than_the_ones_found(params: Params) -> None:
    table = vocabulary(12)
    pca = codec(params, table, 3, 8, step=1.0)
    one = lookup(pca, table)
    embeddings, coded = prompt(table, 30)
    received = pca.received(cut(embeddings, coded, 3))
    found = cut(one(embeddings, coded), coded, 3).view(-1, 3, HIDDEN)

    def misfit(windows: torch.Tensor) -> torch.Tensor:
        expected = one.gain * pca.pca.encode(windows.flatten(1))
        return ((received - expected).square() * one.precision).sum(1)

    least = misfit(found)
    for place, token in product(range(3), table):
        other = found.clone()
        other[:, place] = token
        on = token_places(coded, 3)[:, place]
        assert (misfit(other)[on] >= least[on] - 1e-2).all()


def test_a_frequent_token_wins_where_two_look_the_same(params: Params) -> None:
    table = vocabulary(12)
    table[7] = table[3]
    counts = torch.ones(12, dtype=torch.long)
    counts[7] = 50
    for window, compress in ((1, 4), (3, 20)):
        pca = codec(params, table, window, compress)
        one = Lookup.fit(pca, NearestTokens(table), counts, windows_of(table, window))
        latents = pca.received(table[3].repeat(2, window))
        filled = torch.ones(2, window, dtype=torch.bool)
        ids = one._nearest(latents) if window == 1 else one._likeliest(latents, filled)
        assert (ids == 7).all()


def test_it_costs_what_the_codec_costs_and_what_filled_up_a_window_is_no_token(params: Params) -> None:
    table = vocabulary(12)
    pca = codec(params, table, 3, 20)
    embeddings, coded = prompt(table, 4)
    assert lookup(pca, table).bits(embeddings, coded) == pca.bits(embeddings, coded)
    torch.testing.assert_close(lookup(pca, table)(embeddings, coded), embeddings, rtol=0, atol=0)
