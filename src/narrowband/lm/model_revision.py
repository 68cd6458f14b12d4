"""What bytes a name stands for: the revision of a base model, known without loading torch."""

import hashlib
from pathlib import Path

BLOCK = 1 << 20
SAMPLED = 64
"""Blocks of a larger file that `model_revision` reads."""

SUFFIXES = (".json", ".model", ".safetensors", ".bin", ".txt", ".gguf")


def model_revision(name: str) -> str:
    """The SHA-256 of a folder's configuration, weights and tokenizer, or the commit of a model of the hub.

    Of a file of more than 64 MiB, as large models have them, what counts is its size and 64 blocks of 1 MiB that are
    spread evenly over it, the first (the header of safetensors) and the last included.
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
        if size <= SAMPLED * BLOCK:
            digest.update(file.read())
            return
        digest.update(str(size).encode())
        for i in range(SAMPLED):
            file.seek(i * (size - BLOCK) // (SAMPLED - 1))
            digest.update(file.read(BLOCK))
