"""The headline table and the titles of the systems in it; printing it needs no torch."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

TITLES = {"uncompressed": "Uncompressed", "pca": "PCA", "phase1": "Phase 1", "phase2": "Phase 2"}


def headline_table(headline: Mapping[str, Any], details: Mapping[str, Any]) -> Table:
    """The headline table, from `metrics/evaluate.json` and `results/evaluate.json`; `details` may be empty.

    The title has F1 retained and agreement of Phase 2: gold answers teach the task, which raises the former alone.
    `p of EM` is the p-value of McNemar's test against the row above, which treats questions about one context as independent.
    """
    fewer = f"{headline['compression_ratio']:g}x fewer numbers"
    kept = f"{retained(headline)}, agreement {headline['phase2']['agreement']:.1f}"
    shown = Table(title=f"{fewer}{_fewer_bits(headline, details)}, {kept}")
    shown.add_column("system")
    for column in ("F1", "95% interval", "EM", "p of EM", "agreement", "cosine", "norm ratio", "token match"):
        shown.add_column(column, justify="right")
    shown.add_column("bits per token", justify="right")
    tests, above = details.get("mcnemar", {}), ""
    matched = "token_match" in headline["pca"]  # not of states after a block
    for name, title in TITLES.items():
        row, more = headline[name], details.get(name, {})
        compressed = "cosine" in row
        bits = headline["bits_per_token"] if compressed else more.get("bits_per_token")
        shown.add_row(
            title,
            f"{row['f1']:.1f}",
            "{low:.1f} to {high:.1f}".format(**more["f1_interval"]) if more else "",
            f"{row['em']:.1f}",
            f"{tests[f'{above}_{name}']['p']:.2g}" if f"{above}_{name}" in tests else "",
            f"{row['agreement']:.1f}" if compressed else "100",
            f"{row['cosine']:.3f}" if compressed else "1",
            f"{row['norm_ratio']:.3f}" if compressed else "1",
            (f"{row['token_match']:.1f}" if compressed else "100") if matched else "",
            f"{bits:.0f}" if bits else "",
        )
        above = name
    if row := headline.get("reader"):
        shown.add_row(*_reader_cells(row, details.get("reader", {})))
    return shown


def retained(headline: Mapping[str, Any]) -> str:
    """How much of the uncompressed F1 Phase 2 retains, if there is any."""
    return f"F1 retained {headline['f1_retained']:.1%}" if headline["uncompressed"]["f1"] else "uncompressed F1 0"


def _reader_cells(row: Mapping[str, float], more: Mapping[str, Any]) -> list[str]:
    """The reader's row: it reconstructs no tokens, so these cells are empty."""
    span = "{low:.1f} to {high:.1f}".format(**more["f1_interval"]) if more else ""
    title = f"Reader, {row['positions_ratio']:.3g}x fewer positions"
    scores = [f"{row['f1']:.1f}", span, f"{row['em']:.1f}", "", f"{row['agreement']:.1f}"]
    return [title, *scores, "", "", "", f"{row['bits_per_token']:.0f}"]


def _fewer_bits(headline: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """The ratio of the bits of float16 embeddings to those sent."""
    whole = details.get("uncompressed", {}).get("bits_per_token")
    return f", {whole / headline['bits_per_token']:.3g}x fewer bits" if whole else ""
