"""Files that are whole or not there: written beside their place, then renamed into it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from safetensors.torch import save_file
from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, making its folder."""
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` as a safetensors file, atomically."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    _write(path, lambda temporary: save_file(whole, temporary, dict(metadata or {})))


@contextmanager
def streamed(path: Path) -> Iterator[TextIO]:
    """A text file to write to bit by bit; it appears as `path` when the block ends without an error."""
    with _beside(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def _write(path: Path, write: Callable[[Path], object]) -> None:
    with _beside(path) as temporary:
        write(temporary)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
