"""Resumable training state as one safetensors file: tensors, with the step and the best score in its JSON header.

No pickle is written or read. A file gets its final name only when it is complete, and contains its own checksum.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from narrowband.params import InputError, first_line
from narrowband.runtime.files import digest, write_tensors


@dataclass
class Progress:
    """Where a run stands: steps done, the best evaluation so far, and every step's logged values.

    Of evaluations with equal scores the last is the best, and `improved_step` and `improved_score` are of the first.
    `goal_step` is that of the first evaluation that reached the goal.
    """

    step: int = 0
    best_step: int = -1
    best_score: float = -1.0
    improved_step: int = -1
    improved_score: float = -1.0
    goal_step: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)


class Checkpoint(NamedTuple):
    """Where the state of `module` and `optimizers` is kept; `fingerprint` identifies the run."""

    path: Path
    fingerprint: str
    module: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]

    def save(self, progress: Progress, best: Mapping[str, Tensor]) -> None:
        """Write everything that a run needs to continue as if it had never stopped."""
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        tensors: dict[str, Tensor] = {f"module/{name}": p for name, p in trained.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
        for index, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer/{index}/{parameter}/{key}"] = torch.as_tensor(value)
        text = json.dumps(asdict(progress))
        sha256 = digest(tensors, self.fingerprint + text)
        write_tensors(self.path, tensors, {"fingerprint": self.fingerprint, "progress": text, "sha256": sha256})

    def load(self) -> tuple[Progress, dict[str, Tensor]]:
        """Restore `module` and `optimizers` in place; fresh `Progress` if there is no checkpoint of this very run.

        Raises:
            InputError: the checkpoint is damaged.
        """
        if not self.path.exists():
            return Progress(), {}
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise InputError(
                f"checkpoint {self.path} is damaged ({first_line(error)}); delete it to start over"
            ) from None
        found, text = metadata.get("fingerprint", ""), metadata.get("progress", "")
        if digest(tensors, found + text) != metadata.get("sha256"):
            raise InputError(f"checkpoint {self.path} is damaged (its checksum does not fit); delete it to start over")
        if found != self.fingerprint:
            return Progress(), {}
        progress = json.loads(text)
        history = [(step, values) for step, values in progress.pop("history")]
        return Progress(**progress, history=history), self._restore(tensors)

    def _restore(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put `tensors` where they belong; the best weights."""
        parameters = dict(self.module.named_parameters())
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.optimizers]
        best: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            kind, rest = name.split("/", 1)
            if kind == "module":
                parameters[rest].data.copy_(tensor)
            elif kind == "best":
                best[rest] = tensor
            else:
                index, parameter, key = rest.split("/")
                states[int(index)].setdefault(int(parameter), {})[key] = tensor
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        return best
