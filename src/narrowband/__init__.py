"""How far can the input of a frozen language model be compressed before it stops answering correctly?

`FrozenLM` embeds and answers prompts; `PCA` and `Codec` compress the embeddings. Each is imported on first use, because
importing torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narrowband.codec.codec import Codec
    from narrowband.codec.pca import PCA
    from narrowband.lm.frozen import FrozenLM

__all__ = ["PCA", "Codec", "FrozenLM"]

_HOMES = {"FrozenLM": "lm.frozen", "PCA": "codec.pca", "Codec": "codec.codec"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'narrowband' has no attribute {name!r}")
    return getattr(import_module(f"narrowband.{_HOMES[name]}"), name)
