"""The revision of a data set, which changes with its content."""

from pathlib import Path

from narrowband.runtime.artifacts import sha256


def dataset_revision(name: str) -> str:
    """The SHA-256 of a local file; of any other data set, its name."""
    path = Path(name)
    return f"sha256:{sha256([path])}" if path.is_file() else name
