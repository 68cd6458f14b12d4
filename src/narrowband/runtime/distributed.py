"""The processes that `accelerate launch` started: the one place that knows there may be more than one.

Every process runs the same program on the same seeds. They share out the work, add up gradients and figures, and so
hold the same weights after every step; the main one writes the files. Without a launcher there is one process, which
does all the work itself.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

T = TypeVar("T")
Result = TypeVar("Result")


def state() -> PartialState:
    """The launcher's settings; the first call joins the other processes (NCCL between GPUs, gloo between CPUs)."""
    return PartialState(cpu=not torch.cuda.is_available())


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return state().is_main_process


def own(items: Sequence[T]) -> Sequence[T]:
    """Every so many `items`, those that this process works on."""
    return items[state().process_index :: state().num_processes]


def shared_out(work: Callable[[T], Result], items: Sequence[T]) -> list[Result]:
    """`work` on each of `items`, in order, done by one process each and known to all of them.

    Processes that hold a sharded model together can only run it together, so there each does all the work.
    """
    if state().num_processes == 1 or sharded():
        return [work(item) for item in items]
    parts = gather_object([[work(item) for item in own(items)]])
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(items))]


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if state().num_processes > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)


def added_up(values: Mapping[str, float]) -> dict[str, float]:
    """The sum of each value over all processes."""
    totals = torch.tensor(list(values.values()), dtype=torch.float64, device=state().device)
    add_up([totals])
    return dict(zip(values, totals.tolist(), strict=True))


def sharded() -> bool:
    """Whether the launcher was asked for FSDP (`--use_fsdp`), so that each process holds a share of the model."""
    return state().num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Where FSDP is asked for, leave each process a share of the `blocks` of `model`, on its device.

    A block is gathered while it runs (`torch.distributed.fsdp.fully_shard`). Embeddings and head stay whole, as embeddings
    are looked up outside of the model's forward pass.
    """
    if sharded():
        within = {parameter for block in blocks for parameter in block.parameters()}
        for block in blocks:
            fully_shard(block)
        fully_shard(model, ignored_params=set(model.parameters()) - within)
