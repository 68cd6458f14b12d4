"""What the header of a GGUF file says, read within bounds before any library parses the file.

A GGUF file is a header (key-value metadata, then a table of tensors) and the tensors' bytes, see
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Libraries trust its counts and offsets. Here each is checked against
the size of the file, so that a truncated or hostile file is refused with an error message and in bounded memory.
"""

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from narrowband.lm.git_lfs import IS_POINTER, is_lfs_pointer

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type numbers of metadata values, with their `struct` formats."""
STRING, ARRAY = 8, 9
MOST_ELEMENTS = 1 << 20
"""Maximum number of array elements in a file; the library takes 1.6 kB for each. A vocabulary of 262,144 needs 786,432."""
MOST_TENSORS = 1 << 16
MOST_DIMENSIONS = 4
LARGEST = 1 << 24
"""Largest size of a model in the metadata: until tensors are compared, memory grows at most linearly with it."""


class MalformedError(ValueError):
    """Says what is wrong with a file; the message is the end of a sentence that begins with the file's name."""


@dataclass
class GgufHeader:
    """Metadata (arrays as their lengths) and the number of elements of each tensor."""

    metadata: dict[str, Any] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The name of the model's family, as llama.cpp calls it."""
        return str(self.metadata["general.architecture"])


def read_header(path: Path) -> GgufHeader:
    """The header of the file at `path`.

    Raises:
        MalformedError: it is not a GGUF file, is truncated, or contradicts itself.
    """
    start = _start(path)
    if start != MAGIC:
        raise MalformedError(IS_POINTER if is_lfs_pointer(path) else f"starts with {start!r}, not GGUF")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
        return _Reader(blob).header()


def is_gguf(path: Path) -> bool:
    """Whether a file has the suffix or the magic number of GGUF."""
    return path.is_file() and (path.suffix.lower() == ".gguf" or _start(path) == MAGIC)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(MAGIC))


class _Reader:
    """Reads forward through a mapped file and never past its end."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob = blob
        self.at = len(MAGIC)
        self.left = MOST_ELEMENTS

    def header(self) -> GgufHeader:
        version = self._number("I")
        if version not in VERSIONS:
            raise MalformedError(f"is GGUF version {version}, not one of {VERSIONS} in little-endian order")
        tensors, pairs = self._number("Q"), self._number("Q")
        if tensors > MOST_TENSORS:
            raise MalformedError(f"claims to hold {tensors} tensors; {MOST_TENSORS} are allowed")
        header = GgufHeader()
        for _ in range(pairs):  # ends with the file, as each pair takes bytes
            key = self._string()
            if key in header.metadata:
                raise MalformedError(f"says {key!r} twice")
            header.metadata[key] = self._value(self._number("I"))
        _check_metadata(header.metadata, tensors)
        table = [self._tensor(header) for _ in range(tensors)]
        self._check_places(table, header.metadata.get("general.alignment", 32))
        return header

    def _number(self, form: str) -> Any:
        end = self.at + struct.calcsize("<" + form)
        if end > len(self.blob):
            raise MalformedError(f"ends after {len(self.blob)} bytes, in the middle of its header")
        (value,) = struct.unpack_from("<" + form, self.blob, self.at)
        self.at = end
        return value

    def _skip(self, size: int) -> None:
        if size > len(self.blob) - self.at:
            raise MalformedError(f"ends after {len(self.blob)} bytes, and says that {size} more follow byte {self.at}")
        self.at += size

    def _string(self) -> str:
        length = self._number("Q")
        start = self.at
        self._skip(length)
        try:
            return self.blob[start : self.at].decode()
        except UnicodeDecodeError:
            raise MalformedError(f"has a text at byte {start} that is not UTF-8") from None

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array()
        raise MalformedError(f"has a metadata value of type {kind}, which is not known")

    def _array(self) -> int:
        kind, count = self._number("I"), self._number("Q")
        self.left -= count
        if self.left < 0:
            raise MalformedError(f"has arrays of more than {MOST_ELEMENTS} elements in its metadata")
        if kind in SCALARS:
            self._skip(count * struct.calcsize("<" + SCALARS[kind]))
        elif kind == STRING:
            for _ in range(count):
                self._string()
        else:
            raise MalformedError(f"has an array of values of type {kind} in its metadata, which is not known")
        return count

    def _tensor(self, header: GgufHeader) -> tuple[str, int, int]:
        """Name, offset and size in bytes of the next tensor in the table."""
        name = self._string()
        if name in header.elements:
            raise MalformedError(f"has two tensors called {name!r}")
        dimensions = self._number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise MalformedError(
                f"has a tensor {name!r} of {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are allowed"
            )
        shape = [self._number("Q") for _ in range(dimensions)]
        kind, offset = self._number("I"), self._number("Q")
        if kind not in {known.value for known in GGMLQuantizationType}:
            raise MalformedError(f"has a tensor {name!r} of type {kind}, which is not known")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if not all(shape) or shape[0] % block:
            raise MalformedError(f"has a tensor {name!r} of shape {shape}, which is not made of blocks of {block}")
        header.elements[name] = math.prod(shape)
        return name, offset, header.elements[name] // block * size

    def _check_places(self, table: list[tuple[str, int, int]], alignment: int) -> None:
        """Check that tensors lie within the file and do not overlap; otherwise a small file could fill any memory."""
        start = -(-self.at // alignment) * alignment
        end = 0
        for name, offset, size in sorted(table, key=lambda entry: entry[1]):
            if offset < end or offset % alignment:
                raise MalformedError(
                    f"has its tensor {name!r} at byte {start + offset}, which is misaligned or overlaps another"
                )
            end = offset + size
            if start + end > len(self.blob):
                raise MalformedError(
                    f"ends after {len(self.blob)} bytes, but its tensor {name!r} at byte {start + end}"
                )


def _check_metadata(metadata: dict[str, Any], tensors: int) -> None:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise MalformedError("does not say its architecture")
    alignment = metadata.get("general.alignment", 32)
    if not (isinstance(alignment, int) and 0 < alignment <= LARGEST and alignment & (alignment - 1) == 0):
        raise MalformedError(f"has an alignment of {alignment!r}, which is not a power of two")
    if (parts := metadata.get("split.count", 1)) != 1:
        raise MalformedError(f"is one of {parts} parts; join them with llama-gguf-split --merge")
    for key, value in metadata.items():
        if not key.startswith(f"{architecture}."):
            continue
        if isinstance(value, int) and abs(value) > LARGEST:
            raise MalformedError(f"says that {key} is {value}; {LARGEST} is the most that is allowed")
        if isinstance(value, float) and not math.isfinite(value):
            raise MalformedError(f"says that {key} is {value}, which is not finite")
    blocks = metadata.get(f"{architecture}.block_count", 0)
    if not isinstance(blocks, int) or blocks > tensors:
        raise MalformedError(f"claims to have {blocks} blocks and holds {tensors} tensors")
