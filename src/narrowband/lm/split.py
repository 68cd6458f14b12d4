"""Split inference: the first blocks of a model run on one device, all others on another, and states pass between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from narrowband.params import InputError, blocks_before

if TYPE_CHECKING:
    from narrowband.lm.frozen import FrozenLM


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of `model`, first to last."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def require_source(model: PreTrainedModel, source: str) -> int:
    """The number of blocks before the codec if it gets `source`: 0 for token embeddings.

    Raises:
        InputError: `model` has no block after them, or its states are not as wide as its embeddings.
    """
    before, found = blocks_before(source), len(blocks(model))
    if not before:
        return 0
    if before >= found:
        allowed = f"embeddings, or block-1 to block-{found - 1}" if found > 1 else "embeddings"
        raise InputError(
            f"source {source} leaves no block after the codec, as the base model has {found}; choose {allowed}"
        )
    embedding: Any = model.get_input_embeddings()
    widths = embedding.embedding_dim, model.config.get_text_config().hidden_size
    if len(set(widths)) > 1:
        raise InputError(
            f"source {source} needs states as wide as embeddings, but the base model has embeddings of {widths[0]} numbers and "
            f"states of {widths[1]}; set source to embeddings"
        )
    return before


class _Reached(Exception):  # noqa: N818 (nothing is wrong)
    """Raised to leave a forward pass at the block whose input is wanted."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


@torch.no_grad()
def states_before(model: nn.Module, block: nn.Module, **inputs: Tensor | bool) -> Float[Tensor, "batch seq hidden"]:
    """What `block` gets in a forward pass of `model` over `inputs`; neither it nor any later block is run."""

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    hook = block.register_forward_pre_hook(leave, with_kwargs=True)
    try:
        model(**inputs)
    except _Reached as reached:
        return reached.states
    finally:
        hook.remove()
    raise RuntimeError(f"{type(model).__name__} did not call the block {type(block).__name__}")


@contextmanager
def replaced(block: nn.Module, states: Float[Tensor, "batch seq hidden"]) -> Iterator[None]:
    """While open, the next call of `block` gets `states` instead of its own input; later calls (of new tokens) keep theirs.

    If a key-value cache holds the first positions, that call is given the last of `states`.
    """
    waiting = [states]

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if not waiting:
            return None
        own: Tensor = args[0] if args else kwargs["hidden_states"]
        given = waiting.pop()[:, -own.shape[1] :].to(own)
        return ((given, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": given})

    hook = block.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def entered(
    lm: "FrozenLM", states: Float[Tensor, "batch seq hidden"], ids: Int[Tensor, "batch seq"] | None
) -> Iterator[Float[Tensor, "batch seq hidden"]]:
    """The embeddings to run the model on so that it reads `states`, which are embeddings unless there are sender blocks.

    Sender blocks run on the tokens `ids`, so their keys and values are the original ones; the block after them reads `states`.
    Without `ids`, `states` are embeddings in any case.
    """
    if ids is None or not lm.sender_blocks:
        yield states
        return
    with replaced(blocks(lm.model)[lm.sender_blocks], states):
        yield lm.embed(ids)
