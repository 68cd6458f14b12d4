from pathlib import Path

import pytest
import torch
from making import codec_of

from narrowband.codec.codec import Codec, _distinct, require_match
from narrowband.codec.config import CodecConfig
from narrowband.codec.magnitude import restore_magnitude
from narrowband.codec.pca import PCA
from narrowband.codec.quantize import quantize
from narrowband.codec.windows import cut
from narrowband.params import InputError, Params

HIDDEN = 8
CODED = torch.tensor([[False, True, True, True, True, True], [False, False, False, True, True, False]])
EMPTY = torch.zeros(2, 6, HIDDEN)


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(2, 6, HIDDEN, generator=torch.Generator().manual_seed(1)) * 0.01


@pytest.fixture
def pca() -> PCA:
    return PCA.fit(torch.randn(200, 2 * HIDDEN, generator=torch.Generator().manual_seed(2)) * 0.01, 5)


def changed(params: Params, **values: object) -> Params:
    return params.model_copy(update={"window": 2, "compress_dim": 5, "latent_bits": 32, **values})


def test_residual_adapter_starts_as_the_pca_reconstruction(params: Params, pca: PCA, embeddings: torch.Tensor) -> None:
    settings = changed(params)
    rebuilt = codec_of(pca, settings)(embeddings, CODED)
    torch.testing.assert_close(rebuilt, codec_of(pca, settings, pca_only=True)(embeddings, CODED))
    expected = pca.decode(pca.encode(cut(embeddings, CODED, 2)))
    torch.testing.assert_close(cut(rebuilt, CODED, 2)[0], expected[0])
    assert torch.equal(rebuilt[~CODED], embeddings[~CODED])


def test_layernorm_adapter_gives_every_token_rms_one_whatever_the_original(
    params: Params, pca: PCA, embeddings: torch.Tensor
) -> None:
    settings = changed(params, adapter=params.adapter.model_copy(update={"kind": "layernorm"}))
    rebuilt = codec_of(pca, settings)(embeddings, CODED)
    torch.testing.assert_close(rebuilt[CODED].square().mean(-1).sqrt(), torch.ones(7), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["residual", "layernorm"])
@pytest.mark.parametrize("magnitude", ["token", "example", "calibrated"])
def test_magnitude_restores_the_scale(
    params: Params, pca: PCA, embeddings: torch.Tensor, kind: str, magnitude: str
) -> None:
    settings = changed(params, magnitude=magnitude, adapter=params.adapter.model_copy(update={"kind": kind}))
    codec = codec_of(pca, settings)
    codec.calibrate([(embeddings, CODED)])
    rebuilt = codec(embeddings, CODED)
    if magnitude == "token":
        found, wanted = rebuilt[CODED].norm(dim=-1), embeddings[CODED].norm(dim=-1)
    elif magnitude == "example":
        found, wanted = (torch.stack([x[r][CODED[r]].norm() for r in (0, 1)]) for x in (rebuilt, embeddings))
    else:
        found, wanted = rebuilt[CODED].norm(), embeddings[CODED].norm()
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=0)  # float16 side information


def test_side_information_is_counted(params: Params, pca: PCA) -> None:
    bits = {
        mode: codec_of(pca, changed(params, magnitude=mode)).bits(EMPTY, CODED)
        for mode in ("none", "calibrated", "example", "token")
    }
    latents = (3 + 1) * 5 * 32  # windows, the filled-up ones too, x components x bits
    assert bits == {"none": latents, "calibrated": latents, "example": latents + 2 * 16, "token": latents + 7 * 16}


def test_a_loaded_codec_has_no_dropout(params: Params, pca: PCA, embeddings: torch.Tensor, tmp_path: Path) -> None:
    settings = changed(params, adapter=params.adapter.model_copy(update={"dropout": 0.5}))
    codec = codec_of(pca, settings)
    torch.nn.init.normal_(codec.adapter.leave.weight)
    codec.save(tmp_path, {})
    loaded = Codec.load(tmp_path)
    assert torch.equal(loaded(embeddings, CODED), loaded(embeddings, CODED))
    loaded.train()
    assert not torch.equal(loaded(embeddings, CODED), loaded(embeddings, CODED))


def test_uncoded_positions_are_never_scaled(embeddings: torch.Tensor) -> None:
    scaled = restore_magnitude(embeddings, torch.zeros(0), CODED, "calibrated", torch.tensor(3.0))
    assert torch.equal(scaled[~CODED], embeddings[~CODED])
    assert torch.equal(scaled[CODED], 3 * embeddings[CODED])


def test_quantisation_error_halves_with_each_bit() -> None:
    latents = torch.randn(4000, 1, generator=torch.Generator().manual_seed(3)).clamp(-3.9, 3.9)
    errors = [float((quantize(latents, torch.ones(1), bits) - latents).abs().max()) for bits in (4, 5, 6)]
    for bits, error in zip((4, 5, 6), errors, strict=True):
        assert error == pytest.approx(4 / 2**bits, rel=0.05)
    assert torch.equal(quantize(latents, torch.ones(1), 32), latents)
    assert torch.equal(quantize(latents, torch.ones(1), 16), latents.half().float())


def test_a_latent_beyond_float16_arrives_as_its_largest_number() -> None:
    latents = torch.tensor([[7e4], [-1e30], [65504.0]])
    assert quantize(latents, torch.ones(1), 16).tolist() == [[65504.0], [-65504.0], [65504.0]]


def test_save_and_load_and_refusal_of_another_shape(
    params: Params, pca: PCA, embeddings: torch.Tensor, tmp_path: Path
) -> None:
    codec = codec_of(pca, changed(params))
    torch.nn.init.normal_(codec.adapter.leave.weight)
    codec.calibrate([(embeddings, CODED)])
    codec.save(tmp_path, {})
    assert torch.equal(Codec.load(tmp_path)(embeddings, CODED), codec(embeddings, CODED))
    with pytest.raises(InputError, match="was made with window 2, not 1"):
        require_match(tmp_path, CodecConfig.of(changed(params, window=1)), pca)


def test_rows_are_told_apart_by_every_number() -> None:
    """The last numbers too, which rows of bytes lose if they are zeros."""
    rows = torch.randint(0, 2, (500, 6), generator=torch.Generator().manual_seed(0), dtype=torch.int32) * 256
    first, places = _distinct(rows)
    assert torch.equal(rows[first][places], rows)
    assert len(first) == len(rows.unique(dim=0)) < 500
