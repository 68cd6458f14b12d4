"""The headline table of `metrics/evaluate.json`, and what people call the systems in it; torch is not needed to print it."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

TITLES = {"uncompressed": "Uncompressed", "pca": "PCA", "phase1": "Phase 1", "phase2": "Phase 2"}


def table(metrics: Mapping[str, Any]) -> Table:
    """The headline table; `p of EM` is McNemar's against the row above, and blank for revisions that lack it."""
    shown = Table(title=f"compression {metrics['compression_ratio']:g}x, F1 retained {metrics['f1_retained']:.1%}")
    shown.add_column("system")
    for column in ("F1", "95% interval", "EM", "p of EM", "cosine", "norm ratio", "token match", "bits per token"):
        shown.add_column(column, justify="right")
    tests, above = metrics.get("mcnemar", {}), ""
    for name, title in TITLES.items():
        row = metrics[name]
        compressed = "cosine" in row
        shown.add_row(
            title,
            f"{row['f1']:.1f}",
            "{low:.1f} to {high:.1f}".format(**row["f1_interval"]),
            f"{row['em']:.1f}",
            f"{tests[f'{above}_{name}']['p']:.2g}" if f"{above}_{name}" in tests else "",
            f"{row['cosine']:.3f}" if compressed else "1",
            f"{row['norm_ratio']:.3f}" if compressed else "1",
            f"{row['token_match']:.1f}" if compressed else "100",
            f"{metrics['bits_per_token'] if compressed else row['bits_per_token']:.0f}",
        )
        above = name
    return shown
