"""The revision of a base model, which changes with its content; computed without importing torch."""

import hashlib
from pathlib import Path

BLOCK_BYTES = 1 << 20
SAMPLED = 64
"""Blocks of a larger file that `model_revision` reads."""

SUFFIXES = (".json", ".model", ".safetensors", ".bin", ".txt", ".gguf")


def model_revision(name: str) -> str:
    """The SHA-256 of a folder's configuration, weights and tokenizer, or the commit of a model of the hub.

    Of a file larger than 64 MiB only its size and 64 evenly spaced blocks of 1 MiB are hashed, including the first (the header
    of safetensors) and the last.
    """
    path = Path(name)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
    elif path.is_file():
        files = [path]
    else:
        from narrowband.lm.source import commit

        return f"commit:{commit(name)}"
    digest = hashlib.sha256()
    for file in files:
        _add(file, digest)
    return f"sha256:{digest.hexdigest()}"


def _add(path: Path, digest: "hashlib._Hash") -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= SAMPLED * BLOCK_BYTES:
            digest.update(file.read())
            return
        digest.update(str(size).encode())
        for i in range(SAMPLED):
            file.seek(i * (size - BLOCK_BYTES) // (SAMPLED - 1))
            digest.update(file.read(BLOCK_BYTES))
