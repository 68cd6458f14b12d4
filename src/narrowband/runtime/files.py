"""Reading files, and writing them so that they are complete or absent: a temporary file beside them, then a rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError

from narrowband.params import InputError, first_line

if TYPE_CHECKING:
    from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically; makes the folder if it is missing."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically; makes the folder if it is missing."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run dvc repro") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({first_line(error)}); restore it from Git, or run dvc repro") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        OSError: it can't be read.
        yaml.YAMLError: it is not UTF-8; or see `parse_yaml`.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(first_line(error)) from None


def parse_yaml(text: str) -> Any:
    """Parse `text` with YAML's safe loader.

    Raises:
        yaml.YAMLError: it is not YAML, or has an impossible value such as `!!bool maybe` or a 13th month.
    """
    try:
        return yaml.safe_load(text)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise yaml.YAMLError(first_line(error)) from None


def read_cached(path: Path) -> Any:
    """The content of a JSON file that can be made again; `None` if it can't be read or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` as a safetensors file, atomically.

    Raises:
        OSError: the file can't be written, for example because the disk is full.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        with whole_file(path) as temporary:
            save_file(whole, temporary, dict(metadata or {}))
    except SafetensorError as error:  # how the library reports errors of the operating system
        raise OSError(f"{path} could not be written ({error})") from None


def digest(tensors: Mapping[str, "Tensor"], text: str = "") -> str:
    """SHA-256 of `text` and of the names, types, shapes and bytes of `tensors`."""
    import torch

    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file to write, and to close; it becomes `path` if the block ends without an error.

    It is in a folder of its own, because libraries may leave temporary files beside it. The folder of `path` is made if it is
    missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in path.parent.glob(f".{path.name}.*.tmp"):
        if not _runs(folder.suffixes[-2][1:]):
            shutil.rmtree(folder, ignore_errors=True)
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power cut could leave an empty file under the new name
        temporary.replace(path)
    finally:
        shutil.rmtree(folder)


def _runs(process: str) -> bool:
    """Whether another process has this number."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return int(process) != os.getpid()


@contextmanager
def folder_of_files(folder: Path) -> Iterator[Path]:
    """A temporary folder to write files to; they move to `folder` if the block ends without an error."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        folder.mkdir(exist_ok=True)
        for path in temporary.iterdir():
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(temporary)
