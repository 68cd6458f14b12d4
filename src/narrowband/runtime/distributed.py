"""The processes that `accelerate launch` started; no other module knows that there may be several.

All processes run the same program with the same random seeds. They divide the work and add up gradients and metrics, so
they hold the same weights after every step. The main process writes the files. Without a launcher there is one process.
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
    """The launcher's settings; the first call connects the processes (NCCL for GPUs, gloo for CPUs)."""
    return PartialState(cpu=not torch.cuda.is_available())


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return state().is_main_process


def own(items: Sequence[T]) -> Sequence[T]:
    """The items that this process works on: every n-th, for n processes."""
    return items[state().process_index :: state().num_processes]


def shared_out(work: Callable[[T], Result], items: Sequence[T]) -> list[Result]:
    """The results of `work` for all `items`, in order, on every process; each item is worked on by one process.

    A sharded model can only be run by all processes together, so then every process works on all items.
    """
    if state().num_processes == 1 or sharded():
        return [work(item) for item in items]
    parts = gather_object([[work(item) for item in own(items)]])
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(items))]


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor with its sum over all processes."""
    if state().num_processes > 1:
        for tensor in tensors:
            distributed.all_reduce(tensor)


def added_up(values: Mapping[str, float]) -> dict[str, float]:
    """The sum of each value over all processes."""
    totals = torch.tensor(list(values.values()), dtype=torch.float64, device=state().device)
    add_up([totals])
    return dict(zip(values, totals.tolist(), strict=True))


def sharded() -> bool:
    """Whether the launcher was started with `--use_fsdp`, so that each process holds a share of the model."""
    return state().num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """With FSDP, divide the `blocks` of `model` among the processes; otherwise do nothing.

    A block is gathered while it runs (`torch.distributed.fsdp.fully_shard`). Embeddings and head are not divided, because
    embeddings are looked up outside the model's forward pass.
    """
    if sharded():
        within = {parameter for block in blocks for parameter in block.parameters()}
        for block in blocks:
            fully_shard(block)
        fully_shard(model, ignored_params=set(model.parameters()) - within)
