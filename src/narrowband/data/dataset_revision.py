"""The revision of a data set: what its bytes are, whatever its name is."""

from pathlib import Path

from narrowband.runtime.artifacts import sha256


def dataset_revision(name: str) -> str:
    """The SHA-256 of a file; any other data set is known by its name."""
    path = Path(name)
    return f"sha256:{sha256([path])}" if path.is_file() else name
