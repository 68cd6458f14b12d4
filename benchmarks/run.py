"""`make bench`: every row of the table, printed, and written to `benchmarks/results.json` and `docs/performance.md`."""

import sys
import time

from benchmarks import evaluation, pca, startup, training
from benchmarks.measure import HEADER
from benchmarks.results import save
from narrowband.runtime.entry import console, set_up_torch

ROWS = {
    "pca_counts": pca.from_counts,
    "pca_windows": pca.from_windows,
    "phase1_distinct": lambda: training.distinct_tokens(64),
    "phase1_distinct_committed_batch": lambda: training.distinct_tokens(8),
    "phase1_efficiency": training.phase1_efficiency,
    "phase2_window_16": lambda: training.phase2_step(16),
    "phase2_window_1": lambda: training.phase2_step(1),
    "phase2_window_16_teacher_kept": lambda: training.phase2_step(16, teacher_top_k=64),
    "phase2_window_1_teacher_kept": lambda: training.phase2_step(1, teacher_top_k=64),
    "phase1_mixed": lambda: training.mixed("phase1", 1.5),
    "phase2_mixed": lambda: training.mixed("phase2", 1.2),
    "phase2_shots": training.shared_examples,
    "evaluation": evaluation.throughput,
    "evaluation_shots": evaluation.shared_examples,
    "decoding": evaluation.decoding,
    "folded": evaluation.folded_cost,
    "streams_window_16": lambda: evaluation.streams_cost(16),
    "streams_window_1": lambda: evaluation.streams_cost(1),
    "startup": startup.slowest_start,
}


def main() -> None:
    """Measure the rows named on the command line, or all."""
    set_up_torch()
    measured = {}
    for name in sys.argv[1:] or ROWS:
        began = time.perf_counter()
        measured[name] = ROWS[name]()
        console.print(name, *measured[name].cells, f"({time.perf_counter() - began:.0f} s)", sep="  ", highlight=False)
    if not sys.argv[1:]:
        content = {name: row.content for name, row in measured.items()}
        save("rows", content, HEADER, [row.cells for row in measured.values()])


if __name__ == "__main__":
    main()
