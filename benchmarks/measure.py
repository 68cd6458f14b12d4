"""Timing alternatives in turn, and the peak rates of this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

HEADER = ["what", "ratio", "bar", "result", "measured"]


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, the bar for it, the times behind it, and what limits it where it misses the bar.

    The ratio must be at least the bar if `at_least`, otherwise at most. Seconds are the minimum of the repetitions.
    """

    what: str
    ratio: float
    bar: float
    at_least: bool
    seconds: dict[str, float]
    checks: dict[str, float] = field(default_factory=dict)
    floor: str = ""

    @property
    def met(self) -> bool:
        """Whether the ratio clears the bar."""
        return self.ratio >= self.bar if self.at_least else self.ratio <= self.bar

    @property
    def cells(self) -> list[str]:
        """The row as text, below `HEADER`."""
        sign = ">=" if self.at_least else "<="
        result = "met" if self.met else f"missed: {self.floor}" if self.floor else "missed"
        timed = ", ".join(f"{name} {took:.3g} s" for name, took in self.seconds.items())
        checked = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.checks.items())
        measured = "; ".join(filter(None, (timed, checked)))
        return [self.what, f"{self.ratio:.3g}", f"{sign} {self.bar:g}", result, measured]

    @property
    def content(self) -> dict[str, Any]:
        """The row as JSON."""
        return {**asdict(self), "met": self.met}


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, on a GPU until it is done."""
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def interleaved(runs: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Minimum wall time of each; repetitions take turns, so that a disturbance affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: min(values) for name, values in times.items()}


def matmul_peak(
    size: int = 2048, repetitions: int = 8, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> float:
    """FLOPs per second of a square matrix product, the best of several."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(repetitions))


def bandwidth(megabytes: int = 256, repetitions: int = 5) -> float:
    """Bytes per second of a copy, reads and writes counted, the best of several."""
    source = torch.zeros(megabytes << 20, dtype=torch.uint8)
    target = torch.ones_like(source)
    return 2 * len(source) / min(seconds(lambda: target.copy_(source)) for _ in range(repetitions))


def flops(run: Callable[[], Any]) -> int:
    """FLOPs of the matrix products and attentions that a call runs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def in_child(module: str, function: str, *arguments: float | str) -> dict[str, float]:
    """Run `function` of `module` in a new process; return its result with its `seconds` and the process's `peak_bytes`.

    Linux only: the peak is the kernel's high-water mark of the process's own pages.
    """
    code = (
        "import importlib, json, re, time\n"
        "from pathlib import Path\n"
        f"run = getattr(importlib.import_module({module!r}), {function!r})\n"
        "began = time.perf_counter()\n"
        f"found = run(*{arguments!r}) or {{}}\n"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "print(json.dumps({**found, 'seconds': time.perf_counter() - began, 'peak_bytes': peak}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def resident() -> int:
    """Bytes of this process's memory now; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
