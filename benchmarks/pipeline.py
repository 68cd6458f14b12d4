"""`make bench-pipeline`: the whole pipeline in fresh clones, as it is and with the plain implementation. Takes long."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import HEADER, Row, seconds
from benchmarks.results import save
from narrowband.runtime.entry import console
from narrowband.runtime.files import read_yaml
from narrowband.runtime.fingerprint import DVC_FILE
from narrowband.runtime.parameters import load_params

WAYS = {"plain": ["-m", "benchmarks.plain"], "fast": []}


def run_stage(clone: Path, name: str, way: list[str]) -> float:
    """Seconds that a stage takes in `clone`, run the given way."""
    path = os.pathsep.join([str(clone), str(clone / "src")])
    environment = {**os.environ, "PYTHONPATH": path}
    line = [sys.executable, *way, f"stages/{name}.py"]
    return seconds(lambda: subprocess.run(line, cwd=clone, env=environment, check=True, stdout=subprocess.DEVNULL))


def main() -> None:
    """Run both pipelines, stage by stage in turn."""
    stages = read_yaml(DVC_FILE)["stages"]
    times: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    f1 = {}
    with tempfile.TemporaryDirectory() as folder:
        clones = {way: Path(folder) / way for way in WAYS}
        for clone in clones.values():
            subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
        for name, stage in stages.items():
            if stage.get("frozen"):
                continue
            for way, options in WAYS.items():
                times[way][name] = run_stage(clones[way], name, options)
            console.print(name, *(f"{way} {times[way][name]:.1f} s" for way in WAYS), highlight=False)
        for way, clone in clones.items():
            f1[way] = json.loads((clone / "metrics/evaluate.json").read_text())["phase2"]["f1"]
    totals = {way: sum(found.values()) for way, found in times.items()}
    training = sum(times["fast"][name] for name in ("train_phase1", "train_phase2"))
    row = Row(
        f"whole pipeline, against the plain pipeline that reaches the same F1 at compress_dim {load_params().compress_dim}",
        totals["plain"] / totals["fast"],
        5,
        True,
        totals,
        {f"f1_{way}": value for way, value in f1.items()},
        f"{training / totals['fast']:.0%} of the time are training steps at window 16, which both ways share",
    )
    console.print(*row.cells, sep="  ", highlight=False)
    save("pipeline", {"row": row.content, "stages": times}, HEADER, [row.cells])


if __name__ == "__main__":
    main()
