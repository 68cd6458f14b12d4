"""What a codec writes and reads: bytes of whole prompts, through the codec's own embeddings, adapter and scale."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from narrowband.codec.bitstream import STREAM_BITS
from narrowband.codec.codec import Codec
from narrowband.codec.coder import LatentCoder, Rate
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.params import InputError, LatentCoding, Magnitude, Params

HIDDEN, WINDOW, COMPRESS, RATE = 16, 4, 24, 20.0
VOCABULARY = torch.randn(300, HIDDEN, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 0.01, HIDDEN)


def drawn(rows: int, seed: int) -> torch.Tensor:
    """Rows of the vocabulary, small numbers more often."""
    uniform = torch.rand(rows, WINDOW, generator=torch.Generator().manual_seed(seed))
    return (300 * uniform**2).long()


def config_of(params: Params, **values: object) -> CodecConfig:
    coding = LatentCoding(kind="entropy", bits_per_token=RATE, step=0)
    settings = {"window": WINDOW, "compress_dim": COMPRESS, "latent_coding": coding, **values}
    return CodecConfig.of(params.model_copy(update=settings))


def make(params: Params, magnitude: Magnitude = "none", **values: object) -> Codec:
    """A codec with an adapter that does something."""
    config = config_of(params, magnitude=magnitude, **values)
    windows = drawn(3_000, 1)
    pca = PCA.fit(VOCABULARY, COMPRESS, windows)
    coder = LatentCoder.fit(
        pca, VOCABULARY, windows, Rate(config.latent_coding, config.magnitude, torch.full((120,), 100))
    )
    codec = Codec(pca, config, coder)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        torch.nn.init.normal_(codec.adapter.leave.weight, std=0.02)
    return codec


def prompts(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded rows with so many coded tokens, before one that is not coded."""
    embeddings = torch.randn(len(lengths), max(lengths) + 3, HIDDEN, generator=torch.Generator().manual_seed(3))
    coded = torch.zeros(embeddings.shape[:2], dtype=torch.bool)
    for row, length in enumerate(lengths):
        coded[row, -1 - length : -1] = True
        embeddings[row, -1 - length : -1] = VOCABULARY[drawn(-(-length // WINDOW), 10 + row).flatten()[:length]]
    return embeddings, coded


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("magnitude", ["none", "token", "example", "calibrated"])
def test_decoded_streams_are_what_forward_returns(params: Params, magnitude: Magnitude) -> None:
    codec = make(params, magnitude)
    embeddings, coded = prompts(1, 50, 131)
    if magnitude == "calibrated":
        codec.calibrate([(embeddings, coded)])
    rebuilt = codec(embeddings, coded)
    for row, tokens in enumerate(codec.decode(codec.encode(embeddings, coded))):
        torch.testing.assert_close(tokens, rebuilt[row, coded[row]], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(rebuilt[coded], embeddings[coded], atol=1e-3)


def test_a_window_that_is_repeated_is_reconstructed_once(params: Params) -> None:
    codec = make(params)
    embeddings, coded = prompts(1, 20, 20)
    streams = codec.encode(embeddings.repeat(3, 1, 1), coded.repeat(3, 1))
    rows: list[int] = []
    assert codec.adapter is not None
    codec.adapter.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    decoded = codec.decode(streams)
    assert rows == [1 + 5 + 5] and len(decoded) == 3 * 3
    rebuilt = codec(embeddings, coded)
    for i, tokens in enumerate(decoded):
        torch.testing.assert_close(tokens, rebuilt[i % 3, coded[i % 3]], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("magnitude", ["none", "token", "example"])
def test_threads_and_batches_write_the_same_bytes(params: Params, magnitude: Magnitude, threads: None) -> None:
    codec = make(params, magnitude)
    embeddings, coded = prompts(7, 130, 64, 100)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(codec.encode(embeddings, coded))
        found.append(
            [codec.encode(row[None, -rest:], sent[None, -rest:])[0] for row, sent, rest in each(embeddings, coded)]
        )
    assert all(streams == found[0] for streams in found)


def each(embeddings: torch.Tensor, coded: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """Every row with the number of its places that are not padding."""
    return [(row, sent, int(sent.sum()) + 1) for row, sent in zip(embeddings, coded, strict=True)]


@pytest.mark.parametrize("rate", [8.0, 12.0, 16.0, 17.0, 20.0, 24.0])
def test_bits_are_bytes_written_and_44_above_the_ideal_and_near_the_target(params: Params, rate: float) -> None:
    codec = make(params, latent_coding=LatentCoding(kind="entropy", bits_per_token=rate, step=0))
    lengths = [100, 130, 200, 300]
    embeddings, coded = prompts(*lengths)
    streams = codec.encode(embeddings, coded)
    for length, stream in zip(lengths, streams, strict=True):
        ideal = codec.bitstream.ideal_bits(codec.bitstream.unpack(stream))
        overhead = STREAM_BITS + 8 * (length >= 128)
        assert overhead - 4 <= 8 * len(stream) - ideal <= overhead + 5
        assert 8 * len(stream) < 1.03 * ideal or 8 * len(stream) < 17 * length
        assert 8 * len(stream) / length == pytest.approx(rate, rel=0.05)
    assert codec.bits(embeddings, coded) == 8 * sum(map(len, streams))


@pytest.mark.parametrize("magnitude", ["token", "example"])
def test_side_information_comes_out_of_the_target(params: Params, magnitude: Magnitude) -> None:
    codec = make(params, magnitude)
    embeddings, coded = prompts(*[100] * 12)
    assert codec.bits(embeddings, coded) / 1_200 == pytest.approx(RATE, rel=0.03)


def test_a_target_below_what_streams_cost_is_refused(params: Params) -> None:
    coding = LatentCoding(kind="entropy", bits_per_token=16.4, step=0)
    with pytest.raises(
        InputError, match=r"bits_per_token 16.4 leaves nothing for latents: .* cost 16.4 bits a token without"
    ):
        make(params, "token", latent_coding=coding)


def test_a_step_that_is_given_is_used(params: Params) -> None:
    codec = make(params, latent_coding=LatentCoding(kind="entropy", bits_per_token=1, step=0.125))
    assert codec.coder and codec.coder.model.step.tolist() == [0.125]


def test_a_step_at_which_nothing_is_sent_is_refused(params: Params) -> None:
    with pytest.raises(InputError, match="a step of 100 rounds all latents to 0, so that nothing is sent; choose"):
        make(params, latent_coding=LatentCoding(kind="entropy", bits_per_token=20, step=100))


def test_no_vector_of_training_tokens_is_too_long_for_exact_sums(params: Params) -> None:
    codec = make(params)
    longest = (VOCABULARY[drawn(3_000, 1)].flatten(1) - codec.pca.mean).double().norm(dim=1).max()
    assert codec.coder and 2**25 < longest * codec.coder.project.scale <= 2**28


def test_a_loaded_codec_reads_what_was_written_before(params: Params, tmp_path: Path) -> None:
    codec = make(params)
    embeddings, coded = prompts(60)
    codec.save(tmp_path, {})
    (stream,) = codec.encode(embeddings, coded)
    loaded = Codec.load(tmp_path)
    assert loaded.encode(embeddings, coded) == [stream]
    assert torch.equal(loaded.decode([stream])[0], codec.decode([stream])[0])


def test_a_codec_whose_weights_have_changed_refuses_streams_of_before(params: Params) -> None:
    codec = make(params)
    embeddings, coded = prompts(60)
    streams = codec.encode(embeddings, coded)
    with torch.no_grad():
        codec.adapter.leave.bias.add_(1e-3)
    with pytest.raises(InputError, match="another codec"):
        codec.decode(streams)


def test_a_codec_at_another_rate_refuses_the_streams_and_shares_the_weights(params: Params) -> None:
    codec = make(params)
    embeddings, coded = prompts(60)
    streams = codec.encode(embeddings, coded)
    coder = LatentCoder.fit(
        codec.pca,
        VOCABULARY,
        drawn(3_000, 1),
        Rate(codec.config.latent_coding, codec.config.magnitude, torch.full((240,), 100)),
    )
    other = codec.with_rate(codec.config, replace(coder))
    assert other.adapter is codec.adapter
    # one in 32 codecs has the mark of the first, and then finds a length or a checksum that can't be right
    with pytest.raises(InputError, match=r"another codec|more than its"):
        other.decode(streams)
    assert codec.decode(streams)


def test_fixed_grids_write_no_streams(params: Params) -> None:
    codec = make(params).with_latent_bits(8)
    embeddings, coded = prompts(60)
    assert codec.bits(embeddings, coded) == 15 * COMPRESS * 8
    for use in (lambda: codec.encode(embeddings, coded), lambda: codec.decode([b"x"])):
        with pytest.raises(InputError, match=r"latent_coding\.kind is fixed, which writes no streams"):
            use()


def test_a_coder_is_loaded_where_the_rate_asks_for_it(params: Params, tmp_path: Path) -> None:
    codec = make(params)
    assert codec.coder
    codec.coder.save(tmp_path)
    made_with = {"latent_coding": codec.config.latent_coding.model_dump()}
    codec.pca.save(tmp_path, made_with)
    pca = PCA.load(tmp_path)
    loaded = LatentCoder.load(tmp_path, pca, codec.config)
    assert loaded and loaded.project.scale == codec.coder.project.scale
    vectors = VOCABULARY[drawn(50, 5)].flatten(1)
    assert torch.equal(loaded.symbols(vectors), codec.coder.symbols(vectors))
    assert LatentCoder.load(tmp_path, pca, codec.with_latent_bits(8).config) is None
    another = replace(codec.config, latent_coding=LatentCoding(kind="entropy", bits_per_token=9, step=0))
    with pytest.raises(InputError, match="was made with latent_coding"):
        LatentCoder.load(tmp_path, pca, another)
