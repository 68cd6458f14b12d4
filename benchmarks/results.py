"""Measurements: `benchmarks/results.json`, and the tables in `docs` that are made from it."""

import json
import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import bandwidth, matmul_peak
from narrowband.runtime.files import write_json, write_text

RESULTS = Path("benchmarks/results.json")
PAGE = Path("docs/performance.md")


def machine() -> dict[str, Any]:
    """The machine as measured now, and the day."""
    return {
        "day": date.today().isoformat(),
        "processor": _processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "float32_matmul_gflops_a_second": matmul_peak() / 1e9,
        "copy_gigabytes_a_second": bandwidth() / 1e9,
    }


def save(section: str, content: Any, header: Sequence[str], rows: Sequence[Sequence[str]], page: Path = PAGE) -> None:
    """Replace `section` of the results, what is known of its machine, and the table between its marks on `page`."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machines": {}}
    write_json(RESULTS, {**results, section: content, "machines": {**results["machines"], section: machine()}})
    table = "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    text = page.read_text()
    write_text(page, re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL))


def _processor() -> str:
    """What Linux calls the processor."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
