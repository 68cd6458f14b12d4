"""What an artifact folder says of itself: parameters and base model that it was made with, and checksums of its files.

Whoever reads an artifact asks here first, so that a changed byte, a file cut short, or an artifact of another base
model, window or compress_dim ends in a sentence and not in a wrong number.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from narrowband.params import InputError
from narrowband.runtime.files import write_json

CONFIG = "config.json"
BLOCK = 1 << 20
MANIFEST = "manifest.json"
"""What says of SFT records what `config.json` says of other artifacts."""

MEND = "run dvc repro, or dvc checkout --force to restore what it made"


def sha256(paths: Iterable[Path]) -> str:
    """Of the bytes of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


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
