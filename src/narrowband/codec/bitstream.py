"""A prompt's symbols as bytes and back: header, side information, entropy-coded symbols.

| bytes | what |
| --- | --- |
| 1 | format version (3 bits) and mark of what both sides share (5 bits) |
| 1 to 3 | number of tokens, 7 bits a byte, the lowest first |
| 2 each | side information, float16, little-endian |
| the rest | the coder's state, little-endian, without the zeros at its end |

The coder (asymmetric numeral systems, Duda 2013, arXiv:1311.2540) is a stack. Its first entry is a checksum of symbols, side
information, header and what both sides share (codec and prompt settings), which the decoder must find after it has popped all
symbols. So a stream costs 5 bytes (6 from 128 tokens on) in addition to symbols and side information, and on average half a byte
of rounding.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import constriction
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from narrowband.codec.entropy import ESCAPE_BITS, LIMIT, EntropyModel
from narrowband.codec.magnitude import side_values
from narrowband.codec.quantize import FLOAT16_BITS
from narrowband.params import InputError, Magnitude

VERSION = 2
MARKS = 32
MOST_TOKENS = 2**21 - 1
CHECK_BITS = 24
"""A damaged stream is accepted with a probability of 2^-24."""

STREAM_BITS = 44
"""Average bits of a stream of fewer than 128 tokens, in addition to symbols and side information."""

LEAST_WINDOW_BITS = 2**-5
"""Bits that a window is taken to cost at least, even if its symbols cost less, so that few bytes never claim many windows."""

SLACK_BITS = 64
"""Bits that a stream may lack of what its windows cost at least."""

SEND_AGAIN = "send the stream again"

Coder = constriction.stream.stack.AnsCoder
ESCAPED = constriction.stream.model.Uniform(2**ESCAPE_BITS)


class Message(NamedTuple):
    """The content of one prompt's stream."""

    symbols: Int[Tensor, "windows compress"]
    n_tokens: int
    side: Float[Tensor, " values"]
    """RMS values that `magnitude` sends: one per token, one per prompt, or none."""


@dataclass(frozen=True)
class Bitstream:
    """Writes and reads the streams of all who have the same `shared_id`: any bytes, for codec and prompt settings."""

    model: EntropyModel
    shared_id: bytes
    window: int
    magnitude: Magnitude

    def pack(self, message: Message) -> bytes:
        """The stream of one prompt.

        Raises:
            InputError: the prompt has no tokens or more than 2,097,151, or its bytes are too few for `unpack`.
            ValueError: the number of symbols or of side-information values does not match the number of tokens.
        """
        if not 1 <= message.n_tokens <= MOST_TOKENS:
            raise InputError(
                f"a stream holds 1 to {MOST_TOKENS} tokens but the prompt has {message.n_tokens}; cut it into several"
            )
        if (counts := (len(message.symbols), len(message.side))) != self._counts(message.n_tokens):
            raise ValueError(f"{message.n_tokens} tokens do not come as {counts} windows and values")
        side = message.side.cpu().numpy().astype("<f2").tobytes()
        head = bytes([self._first_byte]) + _varint(message.n_tokens) + side
        symbols = message.symbols.cpu()
        coder = Coder(np.array([self._check(head, symbols)], dtype=np.uint32))
        self._push(coder, symbols)
        body = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
        if not self._can_hold(len(symbols), body):
            raise InputError(
                f"{message.n_tokens} tokens come to {len(head + body)} bytes, too few to be told from a damaged stream; lower "
                "latent_coding.step or raise latent_coding.bits_per_token"
            )
        return head + body

    def unpack(self, stream: bytes) -> Message:
        """Undo `pack`; the work is bounded by the length of the stream, whatever its header claims.

        Raises:
            InputError: the stream is of another format, codec or prompt settings, or was truncated, changed or extended.
        """
        self._identify(stream)
        n_tokens, start = _read_varint(stream)
        n_windows, n_values = self._counts(n_tokens)
        stop = start + 2 * n_values
        head, body = stream[:stop], stream[stop:]
        if not self._can_hold(n_windows, body):
            raise InputError(
                f"the stream claims {n_tokens} tokens, more than its {len(stream)} bytes can hold; {SEND_AGAIN}"
            )
        if not body or body[-1] == 0:
            raise _damaged(stream)
        coder = Coder(np.frombuffer(body + bytes(-len(body) % 4), dtype="<u4").astype(np.uint32))
        symbols = self._pop(coder, n_windows)
        if coder.get_compressed().tolist() != [self._check(head, symbols)]:
            raise _damaged(stream)
        side = np.frombuffer(stream[start:stop], dtype="<f2").astype(np.float32)
        return Message(symbols, n_tokens, torch.from_numpy(side))

    def ideal_bits(self, message: Message) -> float:
        """Bits of symbols and side information in theory: no header, no checksum, no rounding to bytes."""
        return float(self.model.ideal_bits(message.symbols).sum()) + FLOAT16_BITS * len(message.side)

    @property
    def _first_byte(self) -> int:
        return VERSION * MARKS + hashlib.blake2b(self.shared_id, digest_size=1).digest()[0] % MARKS

    def _counts(self, n_tokens: int) -> tuple[int, int]:
        """Number of windows and of side-information values for `n_tokens` tokens."""
        return -(-n_tokens // self.window), side_values(self.magnitude, n_tokens, 1)

    def _can_hold(self, n_windows: int, body: bytes) -> bool:
        """Whether so few bytes can be those of so many windows."""
        return n_windows * max(self.model.least_bits, LEAST_WINDOW_BITS) <= 8 * len(body) + SLACK_BITS

    def _identify(self, stream: bytes) -> None:
        if not stream:
            raise InputError(f"the stream is empty but at least 5 bytes are needed; {SEND_AGAIN}")
        version, mark = divmod(stream[0], MARKS)
        if version != VERSION:
            raise InputError(
                f"the stream is of format {version} but only {VERSION} can be read; encode the prompt again"
            )
        if mark != self._first_byte % MARKS:
            raise InputError(
                f"the stream was written by another codec or with other prompt settings (mark {mark}, not "
                f"{self._first_byte % MARKS}); decode it with those that wrote it"
            )

    def _check(self, head: bytes, symbols: Tensor) -> int:
        """The checksum as the coder's initial state, 2^24 to 2^25."""
        digest = hashlib.blake2b(head + symbols.numpy().astype("<i4").tobytes(), digest_size=CHECK_BITS // 8)
        digest.update(self.shared_id)
        return 2**CHECK_BITS + int.from_bytes(digest.digest(), "little")

    @cached_property
    def _sent(self) -> tuple[Int[np.ndarray, " sent"], Int[np.ndarray, "sent 1"], Int[np.ndarray, "sent 1"]]:
        """The components that are sent (not those of one symbol), the lowest symbol of each, and the index of its escape."""
        low, sizes = self.model.low.cpu().numpy(), self.model.sizes.cpu().numpy()
        sent = np.flatnonzero(sizes > 1)
        return sent, low[sent, None], sizes[sent, None] - 1

    @cached_property
    def _tables(self) -> list[Any]:
        """The probability model of each component that is sent.

        constriction adds 2^-24 to each probability, so 2^-24 is subtracted here. The probabilities are then multiples of 2^-24
        that constriction need not rescale, and no floating-point rounding can make them differ.
        """
        tables = self.model.frequencies.cpu().split(self.model.sizes.tolist())
        categorical = constriction.stream.model.Categorical
        return [categorical((tables[i] - 1).double().numpy(), perfect=False) for i in self._sent[0]]

    def _push(self, coder: Any, symbols: Tensor) -> None:
        """Push escaped values, then the indices of each component, last to first, so that `_pop` reads the indices first."""
        sent, low, escape = self._sent
        values = symbols.numpy().T[sent]
        indices = values - low
        if (escaped := (indices < 0) | (indices >= escape)).any():
            coder.encode_reverse(values[escaped] + np.int32(LIMIT), ESCAPED)
            indices = np.where(escaped, escape, indices)
        for row, table in zip(indices[::-1], self._tables[::-1], strict=True):
            coder.encode_reverse(row, table)

    def _pop(self, coder: Any, n_windows: int) -> Tensor:
        """Undo `_push`."""
        sent, low, escape = self._sent
        rows = [coder.decode(table, n_windows) for table in self._tables]
        indices = np.array(rows, dtype=np.int32).reshape(-1, n_windows)
        values = indices + low
        if (escaped := indices == escape).any():
            values[escaped] = coder.decode(ESCAPED, int(escaped.sum())) - LIMIT
        symbols = np.zeros((n_windows, len(self.model.sizes)), dtype=np.int32)
        symbols[:, sent] = values.T
        return torch.from_numpy(symbols)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow (LEB128)."""
    low, rest = number % 128, number // 128
    return bytes([low + 128]) + _varint(rest) if rest else bytes([low])


def _read_varint(stream: bytes) -> tuple[int, int]:
    """The number of tokens, read from the second byte on, and the offset after it."""
    stop = next((place for place, byte in enumerate(stream[1:4], 2) if byte < 128), None)
    number = sum(byte % 128 << 7 * place for place, byte in enumerate(stream[1:stop]))
    if stop is None or stream[1:stop] != _varint(number) or not number:
        raise _damaged(stream)
    return number, stop


def _damaged(stream: bytes) -> InputError:
    return InputError(
        f"the stream of {len(stream)} bytes was cut short, changed, or written by another codec or with other prompt settings; "
        f"{SEND_AGAIN}"
    )
