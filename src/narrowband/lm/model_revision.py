"""The revision of a base model, which changes with its content; computed without importing torch."""

import hashlib
from pathlib import Path

from narrowband.lm.cache import SMALL, file_sha256

SUFFIXES = (".json", ".model", ".safetensors", ".bin", ".txt", ".gguf")


def model_revision(name: str) -> str:
    """The SHA-256 of a folder's configuration, weights and tokenizer, or the commit of a model of the hub.

    A file above `SMALL` counts by its own SHA-256, which is cached.
    """
    path = Path(name)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
    elif path.is_file():
        files = [path]
    else:
        from narrowband.lm.base_model import commit

        return f"commit:{commit(name)}"
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.stat().st_size <= SMALL else file_sha256(file).encode())
    return f"sha256:{digest.hexdigest()}"
