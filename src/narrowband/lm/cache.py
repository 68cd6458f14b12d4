"""Cache for results that depend on a base model alone: converted weights, results of the probe, hashes of large files."""

import hashlib
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from narrowband.params import InputError
from narrowband.runtime.artifacts import read_config, sha256, write_sealed

SMALL = 8 << 20
"""Maximum size in bytes of a file that is hashed each time."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/narrowband`, by default `~/.cache/narrowband`.

    It belongs to the user, not to the workspace: `dvc exp run --temp` and queue workers run in copies without Git-ignored
    files, and each would convert a model of gigabytes again.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narrowband"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a whole file; one above `SMALL` is read again only if its size, a time of change or its inode differs."""
    stat = path.stat()
    if stat.st_size <= SMALL:
        return sha256(path)
    return _recorded(path.resolve(), (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))


@lru_cache
def _recorded(path: Path, stamp: tuple[int, ...]) -> str:
    record = cache_folder() / "sha256" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    try:
        return str(read_config(record.parent, {"stamp": list(stamp)}, record.name)["sha256"])
    except (InputError, OSError, RecursionError):  # there is none, or it is damaged or of other content
        found = sha256(path)
        with suppress(OSError):  # a cache that can't be written to costs time only
            write_sealed(record, {"stamp": stamp, "sha256": found})
        return found
