"""The `config.json` of an artifact folder: the settings it was made with, and a checksum of every file.

It is checked before an artifact is used, so that a changed byte, a truncated file, or an artifact made for another base model,
window or compress_dim causes an error message instead of wrong numbers.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narrowband.params import InputError
from narrowband.runtime.files import write_json

CONFIG = "config.json"
READ_BYTES = 1 << 20
MANIFEST = "manifest.json"
"""The file that has this role in the folder of SFT records."""

RESTORE = "run dvc repro, or dvc checkout --force to restore the last result"


def sha256(*paths: Path) -> str:
    """SHA-256 of the concatenated contents of `paths`."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def write_config(folder: Path, made_with: Mapping[str, Any]) -> None:
    """Write `config.json` with `made_with` and the checksums of all files in `folder`; call it last."""
    files = [path for path in sorted(folder.iterdir()) if path.name != CONFIG and path.name[0] != "."]
    write_sealed(folder / CONFIG, {**made_with, "sha256": {path.name: sha256(path) for path in files}})


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON with a checksum of `content` itself."""
    write_json(path, {**content, "seal": _seal(content)})


def read_config(folder: Path, expected: Mapping[str, Any] | None = None, name: str = CONFIG) -> dict[str, Any]:
    """Read the file `name` of `folder`, after checking it against its own checksum.

    Raises:
        InputError: it is missing, was changed after it was written, or differs from `expected`.
    """
    path = folder / name
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop("seal")
    except FileNotFoundError:
        raise InputError(f"{folder} is not complete (it has no {name}); {RESTORE}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged; {RESTORE}") from None
    if seal != _seal(content):
        raise InputError(f"{path} was changed after it was written; {RESTORE}")
    for key, wanted in (expected or {}).items():
        if content.get(key) != wanted:
            raise InputError(f"{folder} was made with {key} {content.get(key)}, not {wanted}; run dvc repro --force")
    return content


def checked(path: Path, name: str = CONFIG) -> Path:
    """Return `path` after checking its SHA-256 against the file `name` beside it.

    Raises:
        InputError: the checksum differs, or one of the files is missing.
    """
    known = read_config(path.parent, name=name)["sha256"]
    try:
        found = sha256(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {RESTORE}") from None
    if found != known.get(path.name):
        raise InputError(f"{path} is not the file that was written (its checksum is not the one in {name}); {RESTORE}")
    return path


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
