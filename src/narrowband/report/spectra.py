"""The spectrum of a base model's token embeddings beside those of real models: what `narrowband spectrum` prints."""

import json
from collections.abc import Mapping
from importlib.resources import files

from rich.table import Table

from narrowband.codec.spectrum import SPECTRUM_RATIOS


def real_spectra() -> dict[str, dict[int, float]]:
    """Shares of variance by compression ratio of the real models in `spectra.json`, by name of the model."""
    content = json.loads((files("narrowband.report") / "spectra.json").read_text(encoding="utf-8"))
    return {
        name: {int(ratio): share for ratio, share in model["shares"].items()}
        for name, model in content["models"].items()
    }


def spectrum_table(spectra: Mapping[str, Mapping[int, float]]) -> Table:
    """A row for each model, a column for each compression ratio; blank where a model is too narrow for the ratio."""
    shown = Table("model", title="share of variance that PCA keeps per token, by compression ratio")
    for ratio in SPECTRUM_RATIOS:
        shown.add_column(f"{ratio}x", justify="right")
    for name, shares in spectra.items():
        shown.add_row(name, *(f"{shares[ratio]:.3f}" if ratio in shares else "" for ratio in SPECTRUM_RATIOS))
    return shown
