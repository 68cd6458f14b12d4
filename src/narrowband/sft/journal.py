"""Outputs of the model on disk, so that a run that was killed need not compute them again."""

import json
import os
import zlib
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any


class Journal:
    """Results of model calls in their order, each a line of checksum and JSON.

    They determine a run, so a run that is started again with the same `fingerprint` reads them from the file, reaches the state
    in which it was killed, and continues. The first damaged line and all lines after it are dropped and computed again; with
    another `fingerprint`, all lines are.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = fingerprint.encode() + b"\n"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines[:1] != [header]:
            path.write_bytes(header)
            lines = [header]
        whole = [header, *takewhile(_sound, lines[1:])]
        self.path, self.fingerprint = path, fingerprint
        self.recorded = len(whole) - 1
        self._file = path.open("r+b")
        self._file.truncate(sum(map(len, whole)))
        self._file.readline()

    def recall(self, call: Callable[[], Any]) -> Any:
        """The recorded result of this call; if there is none, run `call()` and record its result. Passes through JSON."""
        line = self._file.readline()
        if not line:
            result = json.dumps(call()).encode()
            line = b"%08x %b\n" % (zlib.crc32(result), result)
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        return json.loads(line[9:])

    def discard(self) -> None:
        """Delete the file, when the run is done."""
        self._file.close()
        self.path.unlink()


def _sound(line: bytes) -> bool:
    return line[:9] == b"%08x " % zlib.crc32(line[9:-1]) and line.endswith(b"\n")
