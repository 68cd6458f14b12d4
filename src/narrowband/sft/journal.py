"""What the model has already said, on disk, so that a run that was killed need not ask again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """Results of model calls, one JSON line each, in the order in which they were made.

    All else that a run does follows from them, so a run with the same `fingerprint` that is started again takes them
    from the file, comes to the very state in which it was killed, and goes on. A line that was cut short is dropped.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = fingerprint.encode() + b"\n"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines[:1] != [header]:
            path.write_bytes(header)
            lines = [header]
        whole = [line for line in lines if line.endswith(b"\n")]
        self.path = path
        self.recorded = len(whole) - 1
        self._file = path.open("r+b")
        self._file.truncate(sum(map(len, whole)))
        self._file.readline()

    def recall(self, call: Callable[[], Any]) -> Any:
        """What `call` returned when it was made before, or else what it returns now, written down (as JSON gives it back)."""
        line = self._file.readline()
        if not line:
            line = json.dumps(call()).encode() + b"\n"
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        return json.loads(line)

    def discard(self) -> None:
        """Delete the file: the run is done."""
        self._file.close()
        self.path.unlink()
