import hashlib
import random

import numpy as np
import pytest
import torch

from narrowband.codec.bitstream import MOST_TOKENS, STREAM_BITS, Bitstream, Message, _varint
from narrowband.codec.entropy import LIMIT, EntropyModel
from narrowband.codec.exact import ExactProjection
from narrowband.params import InputError, Magnitude

COMPRESS, WINDOW = 24, 4
ID = b"this codec"


def draw(n: int, seed: int) -> torch.Tensor:
    """Gaussian latents; the last components vary less than the step."""
    return torch.randn(n, COMPRESS, generator=torch.Generator().manual_seed(seed)) * torch.linspace(4, 0.01, COMPRESS)


@pytest.fixture(scope="module")
def model() -> EntropyModel:
    return EntropyModel.fit(draw(4_000, 0), 0.5)


@pytest.fixture(scope="module")
def plain(model: EntropyModel) -> Bitstream:
    return Bitstream(model, ID, WINDOW, "none")


def message(model: EntropyModel, n_tokens: int, values: int = 0, seed: int = 1) -> Message:
    side = torch.rand(values, generator=torch.Generator().manual_seed(seed)).half().float()
    return Message(model.quantize(draw(-(-n_tokens // WINDOW), seed)), n_tokens, side)


def same(found: Message, sent: Message) -> bool:
    return (
        found.n_tokens == sent.n_tokens
        and torch.equal(found.symbols, sent.symbols)
        and torch.equal(found.side, sent.side)
    )


@pytest.mark.parametrize("magnitude", ["none", "calibrated", "example", "token"])
@pytest.mark.parametrize("n_tokens", [1, 4, 127, 128, 700])
def test_what_is_packed_is_unpacked(model: EntropyModel, magnitude: Magnitude, n_tokens: int) -> None:
    values = {"example": 1, "token": n_tokens}.get(magnitude, 0)
    sent = message(model, n_tokens, values)
    stream = Bitstream(model, ID, WINDOW, magnitude)
    assert same(stream.unpack(stream.pack(sent)), sent)


def test_symbols_outside_their_alphabets_come_through(model: EntropyModel, plain: Bitstream) -> None:
    sent = message(model, 40)
    sent.symbols[2, 0], sent.symbols[7, 0], sent.symbols[3, 5] = LIMIT, -LIMIT, 1000
    assert same(plain.unpack(plain.pack(sent)), sent)


def reference_state(model: EntropyModel, symbols: torch.Tensor, state: int) -> bytes:
    """The coder written again with Python's whole numbers: 64 bits of state, shifted out 32 at a time."""
    words = []
    starts = (model.sizes.cumsum(0) - model.sizes).tolist()
    for i in reversed(range(COMPRESS)):
        table = model.frequencies[starts[i] : starts[i] + int(model.sizes[i])].tolist()
        for symbol in reversed(symbols[:, i].tolist()) if len(table) > 1 else []:
            place = symbol - int(model.low[i])
            frequency = table[place]
            if state >= frequency << 40:
                words.append(state % 2**32)
                state >>= 32
            state = (state // frequency << 24) + sum(table[:place]) + state % frequency
    words += [state % 2**32, state >> 32]
    return np.array(words, dtype="<u4").tobytes().rstrip(b"\0")


def test_bytes_are_those_of_asymmetric_numeral_systems_over_the_whole_number_tables(
    model: EntropyModel, plain: Bitstream
) -> None:
    sent = message(model, 100)
    stream = plain.pack(sent)
    assert stream[1] == 100
    said = stream[:2] + sent.symbols.numpy().astype("<i4").tobytes() + ID
    check = int.from_bytes(hashlib.blake2b(said, digest_size=3).digest(), "little")
    assert stream[2:] == reference_state(model, sent.symbols, 2**24 + check)


@pytest.mark.parametrize("n_tokens", [100, 127, 128, 500])
@pytest.mark.parametrize("rate", [8.0, 10.0, 12.0, 14.0, 16.0, 17.0, 18.0, 20.0, 24.0])
def test_bytes_are_44_bits_above_the_ideal_which_is_within_three_percent_from_17_a_token_on(
    rate: float, n_tokens: int
) -> None:
    """To within 4 bits for rounding to bytes and 1 for the coder; from 128 tokens on, their number takes a byte more."""
    plain = Bitstream(EntropyModel.fit_rate(draw(4_000, 0), rate * WINDOW), ID, WINDOW, "none")
    overhead = STREAM_BITS + 8 * (n_tokens >= 128)
    for seed in range(20):
        sent = message(plain.model, n_tokens, seed=seed)
        ideal, written = plain.ideal_bits(sent), 8 * len(plain.pack(sent))
        assert ideal == pytest.approx(rate * n_tokens, rel=0.1)
        assert overhead - 4 <= written - ideal <= overhead + 5
        assert written < 1.03 * ideal or written < 17 * n_tokens


def test_a_stream_costs_six_bytes_more_than_what_it_says(model: EntropyModel) -> None:
    stream = Bitstream(model, ID, WINDOW, "token")
    more = [
        len(stream.pack(sent)) - stream.ideal_bits(sent) / 8
        for sent in (message(model, 60, 60, seed) for seed in range(200))
    ]
    assert 5 < sum(more) / len(more) < 6 and max(more) < 7


def mutated(stream: bytes, other: bytes, rng: random.Random) -> bytes:
    """`stream` with one thing done to it that channels and people do."""
    found = bytearray(stream)
    place = rng.randrange(len(found))
    kind = rng.randrange(8)
    if kind == 0:
        found[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del found[place:]
    elif kind == 2:
        found += rng.randbytes(rng.randrange(1, 9))
    elif kind == 3:
        found[place : place + 4] = rng.randbytes(4)
    elif kind == 4:
        del found[place]
    elif kind == 5:
        found = found[:place] + other[place:]
    elif kind == 6:
        found = bytearray(stream[:1] + rng.randbytes(rng.randrange(60)))
    else:
        found[1:2] = rng.randbytes(rng.randrange(4))
    return bytes(found)


@pytest.mark.parametrize("magnitude", ["none", "token"])
def test_no_stream_that_was_changed_is_decoded(model: EntropyModel, magnitude: Magnitude) -> None:
    rng = random.Random(0)
    stream = Bitstream(model, ID, WINDOW, magnitude)
    count = (lambda n: n) if magnitude == "token" else (lambda n: 0)
    streams = [stream.pack(message(model, n, count(n), seed=n)) for n in range(1, 161, 8)]
    tried = 0
    while tried < 6_000:
        changed = mutated(rng.choice(streams), rng.choice(streams), rng)
        if changed in streams:
            continue
        tried += 1
        with pytest.raises(InputError) as caught:
            stream.unpack(changed)
        assert "\n" not in str(caught.value)


def test_a_stream_of_another_codec_is_refused(model: EntropyModel) -> None:
    stream = Bitstream(model, ID, WINDOW, "none").pack(message(model, 50))
    refusals = []
    for i in range(300):
        with pytest.raises(InputError, match="another codec") as caught:
            Bitstream(model, f"codec {i}".encode(), WINDOW, "none").unpack(stream)
        refusals.append("mark" in str(caught.value))
    assert 0.9 < sum(refusals) / 300 < 1  # the others have the same mark, and are found out by the checksum


def test_another_format_and_an_empty_stream_are_named(model: EntropyModel, plain: Bitstream) -> None:
    stream = plain.pack(message(model, 50))
    with pytest.raises(InputError, match="is of format 3 but only 2 can be read"):
        plain.unpack(bytes([stream[0] + 32]) + stream[1:])
    with pytest.raises(InputError, match="is empty"):
        plain.unpack(b"")


def test_a_claim_of_many_tokens_is_refused_before_they_are_decoded(
    model: EntropyModel, plain: Bitstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = plain.pack(message(model, 50))
    monkeypatch.setattr(Bitstream, "_pop", None)
    with pytest.raises(InputError, match="claims 2097151 tokens, more than its"):
        plain.unpack(stream[:1] + b"\xff\xff\x7f" + stream[2:])


def all_but(kept: int) -> EntropyModel:
    """A model whose first `kept` components cost next to nothing while they are 0, and which drops all others."""
    sizes = torch.ones(COMPRESS, dtype=torch.int32)
    sizes[:kept] = 4
    tables = [[1, 2**24 - 3, 1, 1]] * kept + [[2**24]] * (COMPRESS - kept)
    frequencies = torch.tensor([entry for table in tables for entry in table], dtype=torch.int32)
    low = -(sizes > 1).int()
    return EntropyModel(torch.ones(1, dtype=torch.float64), low, sizes, frequencies, torch.zeros(len(frequencies)))


@pytest.mark.parametrize("kept", [0, 1])
def test_the_work_is_bounded_by_the_length_whatever_symbols_cost(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Bitstream(all_but(kept), ID, WINDOW, "none")
    least = 8 * 24 * 32  # windows at 1/32 of a bit each
    popped: list[int] = []
    pop = Bitstream._pop
    monkeypatch.setattr(Bitstream, "_pop", lambda self, coder, n: popped.append(n) or pop(self, coder, n))
    for n_tokens in (5_000, 30_000, 50_000, MOST_TOKENS):
        with pytest.raises(InputError, match=r"cut short, changed|more than its 24 bytes can hold"):
            plain.unpack(bytes([plain._first_byte]) + _varint(n_tokens) + bytes(22 - len(_varint(n_tokens))) + b"\1")
    assert popped and max(popped) < least + 64 * 32
    few = Message(torch.zeros(1_000, COMPRESS, dtype=torch.int32), 1_000 * WINDOW, torch.zeros(0))
    assert same(plain.unpack(plain.pack(few)), few)
    many = Message(torch.zeros(9_000, COMPRESS, dtype=torch.int32), 9_000 * WINDOW, torch.zeros(0))
    with pytest.raises(InputError, match=r"36000 tokens come to .* bytes, too few to be told from a damaged stream"):
        plain.pack(many)


def test_what_no_stream_can_hold_is_refused(model: EntropyModel, plain: Bitstream) -> None:
    with pytest.raises(InputError, match="holds 1 to 2097151 tokens but the prompt has 0"):
        plain.pack(Message(torch.zeros(0, COMPRESS, dtype=torch.int32), 0, torch.zeros(0)))
    with pytest.raises(ValueError, match="do not come as"):
        plain.pack(message(model, 50)._replace(n_tokens=60))


def test_threads_and_batches_write_the_same_bytes(model: EntropyModel, plain: Bitstream) -> None:
    """From the vectors on: latents come from `ExactProjection`."""
    generator = torch.Generator().manual_seed(5)
    components = torch.linalg.qr(torch.randn(512, COMPRESS, generator=generator)).Q.T.contiguous()
    vectors = draw(60, 6) @ components
    project = ExactProjection.of(components, torch.zeros(512), largest_norm=64.0)

    def streams(batch: int) -> list[bytes]:
        symbols = torch.cat([model.quantize(project(part)) for part in vectors.split(batch)])
        return [plain.pack(Message(part, 20, torch.zeros(0))) for part in symbols.split(5)]

    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found += [streams(batch) for batch in (1, 7, 60)]
    torch.set_num_threads(before)
    assert all(one == found[0] for one in found)
