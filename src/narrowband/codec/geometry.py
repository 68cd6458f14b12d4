"""Settings that a PCA or an adapter must match to be loaded."""

from typing import Any

from narrowband.lm.source import model_revision
from narrowband.params import Params


def geometry(params: Params) -> dict[str, Any]:
    """Settings an artifact must match to be loaded: base model, window and compress_dim."""
    return {
        "base_model_revision": model_revision(params.base_model),
        "window": params.window,
        "compress_dim": params.compress_dim,
    }
