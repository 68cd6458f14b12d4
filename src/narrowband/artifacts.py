"""What an artifact folder says of itself: parameters and base model that it was made with, and checksums of its files.

Whoever reads an artifact asks here first, so that a changed byte, a file cut short, or an artifact of another base
model, window or compress_dim ends in a sentence and not in a wrong number.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from narrowband.base_model import commit
from narrowband.files import write_json
from narrowband.params import InputError, Params

CONFIG = "config.json"
BLOCK = 1 << 20
SAMPLED = 64
"""Blocks of a larger file of a base model that `model_revision` reads."""

MEND = "run dvc repro, or dvc checkout --force to restore what it made"


def sha256(paths: Iterable[Path]) -> str:
    """Of the bytes of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def model_revision(name: str) -> str:
    """The sha256 of a folder's configuration, weights and tokenizer, or the commit of a model of the hub.

    Of a file of more than 64 MiB, as large models have them, what counts is its size and 64 blocks of 1 MiB that are
    spread evenly over it, the first (the header of safetensors) and the last included.
    """
    folder = Path(name)
    if not folder.is_dir():
        return f"commit:{commit(name)}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".model", ".safetensors", ".bin", ".txt"):
            continue
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= SAMPLED * BLOCK:
                digest.update(file.read())
                continue
            digest.update(str(size).encode())
            for i in range(SAMPLED):
                file.seek(i * (size - BLOCK) // (SAMPLED - 1))
                digest.update(file.read(BLOCK))
    return f"sha256:{digest.hexdigest()}"


def geometry(params: Params) -> dict[str, Any]:
    """What PCA and adapters can only be used with: base model, window and compress_dim."""
    return {
        "base_model_revision": model_revision(params.base_model),
        "window": params.window,
        "compress_dim": params.compress_dim,
    }


def write_config(folder: Path, made_with: Mapping[str, Any]) -> None:
    """Write `config.json`, when everything else in `folder` is there: what it was made with, and checksums."""
    files = [path for path in sorted(folder.iterdir()) if path.name != CONFIG and path.name[0] != "."]
    write_sealed(folder / CONFIG, {**made_with, "sha256": {path.name: sha256([path]) for path in files}})


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON with a checksum of its own."""
    write_json(path, {**content, "seal": _seal(content)})


def read_config(folder: Path, expected: Mapping[str, Any] | None = None, name: str = CONFIG) -> dict[str, Any]:
    """What `folder` says of itself in the file `name`.

    Raises:
        InputError: it says nothing, was changed since it was written, or was made with other values than `expected`.
    """
    path = folder / name
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop("seal")
    except FileNotFoundError:
        raise InputError(f"{folder} holds nothing that was finished (no {name} in it); {MEND}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged; {MEND}") from None
    if seal != _seal(content):
        raise InputError(f"{path} was changed after it was written; {MEND}")
    for key, wanted in (expected or {}).items():
        if content.get(key) != wanted:
            raise InputError(f"{folder} was made with {key} {content.get(key)}, not {wanted}; run dvc repro --force")
    return content


def checked(path: Path, name: str = CONFIG) -> Path:
    """`path`, once it is known to hold the very bytes that the file `name` beside it was written for.

    Raises:
        InputError: it does not, or there is no such file.
    """
    known = read_config(path.parent, name=name)["sha256"]
    try:
        found = sha256([path])
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {MEND}") from None
    if found != known.get(path.name):
        raise InputError(f"{path} is not what was written (its checksum is not that of {name}); {MEND}")
    return path


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
