"""The context encoder: an MLP on groups of token embeddings, and on the states of a trainable copy of the model if asked for."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from narrowband.codec.windows import cut
from narrowband.lm.base_model import id_count
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.model_revision import model_revision
from narrowband.lm.split import blocks
from narrowband.params import InputError, Params
from narrowband.reader.shorten import Every, Shortener, pooled
from narrowband.reader.split_prompt import Contexts
from narrowband.runtime import distributed
from narrowband.runtime.artifacts import checked, read_config, write_config
from narrowband.runtime.files import write_tensors

FILE = "encoder.safetensors"
HIDDEN_MULT = 4
"""Hidden width of the MLP, as a multiple of the width of its input."""

SAMPLED = 4096
"""Number of evenly spaced vocabulary tokens that the RMS of embeddings is measured on."""


@dataclass(frozen=True)
class ReaderConfig:
    """Everything that determines what an encoder does, except its weights."""

    base_model_revision: str
    tokens_per_position: int
    encoder: Literal["pretrained", "scratch", "embeddings"]
    depth: int
    hidden_mult: int = HIDDEN_MULT

    @classmethod
    def of(cls, params: Params) -> "ReaderConfig":
        """The settings that `params.yaml` asks for."""
        reader = params.reader
        return cls(model_revision(params.base_model), reader.tokens_per_position, reader.encoder, reader.depth)


class ContextEncoder(nn.Module):
    """One vector for every `k` context tokens: the mean of their embeddings plus the output of an MLP.

    The MLP reads the `k` embeddings side by side, as a mean does not tell which token came first, and, unless `encoder` is
    `embeddings`, the mean of the hidden states of a copy of the base model run over head and context. Its last layer starts at
    zero, so an untrained encoder is mean pooling, and the identity at `k` 1. `seed` initialises the weights.

    Raises:
        InputError: the base model has fewer blocks than are to be copied, or is sharded (`--use_fsdp`).
    """

    scale: Tensor

    def __init__(self, lm: FrozenLM, config: ReaderConfig, *, seed: int = 0) -> None:
        super().__init__()
        if distributed.sharded():
            raise InputError("a reader can't be trained with --use_fsdp; start the stage without it")
        self.config, hidden = config, lm.hidden_size
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.copy = None if config.encoder == "embeddings" else trainable_copy(lm, config.encoder, config.depth)
            width = (self.k + (self.copy is not None)) * hidden
            self.norm = nn.LayerNorm(width)
            self.enter = nn.Linear(width, config.hidden_mult * width)
            self.leave = nn.Linear(config.hidden_mult * width, hidden)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("scale", embedding_rms(lm))
        self.to(lm.device).eval()

    @property
    def k(self) -> int:
        """Tokens per vector."""
        return self.config.tokens_per_position

    def at(self, k: int) -> Shortener:
        """The encoder with a vector for every `k` tokens, at most as many as it is made for."""
        return Every(k, self)

    def forward(
        self, embeddings: Float[Tensor, "batch seq hidden"], contexts: Contexts, k: int | None = None
    ) -> Float[Tensor, "vectors hidden"]:
        """The vectors of all `contexts`, one context after the other; `embeddings` are those of their ids."""
        k = k or self.k
        inside = contexts.inside.to(embeddings.device)
        means = pooled(embeddings, inside, k)
        tokens = cut(embeddings, inside, k) / self.scale  # [vectors, k * hidden], zeros beyond the context's end
        read = [F.pad(tokens, (0, (self.k - k) * embeddings.shape[-1]))]
        if self.copy is not None:
            states = self.copy(inputs_embeds=embeddings, use_cache=False).last_hidden_state
            read.append(pooled(states, inside, k))
        added = self.leave(F.gelu(self.enter(self.norm(torch.cat(read, -1)))))
        return means + self.scale * added

    def save(self, folder: Path, trained_with: Mapping[str, Any]) -> None:
        """Write the weights as `encoder.safetensors`, and `config.json` with the settings and `trained_with`."""
        write_tensors(folder / FILE, self.state_dict())
        write_config(folder, {**asdict(self.config), **trained_with})

    @classmethod
    def load(cls, folder: Path, lm: FrozenLM, config: ReaderConfig) -> "ContextEncoder":
        """Load what `save` wrote.

        Raises:
            InputError: a file is missing, was changed, or was trained with other settings than `config`.
        """
        read_config(folder, asdict(config))
        encoder = cls(lm, config)
        encoder.load_state_dict(load_file(checked(folder / FILE)))
        return encoder


def trainable_copy(lm: FrozenLM, start: Literal["pretrained", "scratch"], depth: int) -> nn.Module:
    """The base model without head and embedding table, in float32: its first `depth` blocks (0: all), pretrained or reset.

    Raises:
        InputError: the base model has fewer blocks, or can't be copied; see `require_copy`.
    """
    require_depth(lm.model, depth)
    require_copy(lm.model)
    copy: Any = deepcopy(lm.model.base_model, {id(lm.embedding): nn.Identity()}).float()
    first, *others = blocks(copy)
    stack = next(module for module in copy.modules() if isinstance(module, nn.ModuleList) and module[0] is first)
    del stack[depth or 1 + len(others) :]
    if start == "scratch":
        for module in stack.modules():
            copy._init_weights(module)  # as the family initialises them
    copy.requires_grad_(True)
    return copy


def require_depth(model: nn.Module, depth: int) -> None:
    """Raise an InputError if `model` has fewer than `depth` blocks."""
    found = len(blocks(model))
    if depth > found:
        raise InputError(f"reader.depth {depth} is more than the {found} blocks of the base model; choose 0 to {found}")


def require_copy(model: PreTrainedModel) -> None:
    """Raise an InputError if `model` has no part without head, or one whose states aren't as wide as embeddings."""
    embedding: Any = model.get_input_embeddings()
    states, width = model.config.get_text_config().hidden_size, embedding.embedding_dim
    projected = any(name.endswith("project_out") for name, _ in model.named_modules())  # OPT, to the embeddings' width
    if model.base_model is model:
        why = "of which no part without the head can be copied"
    elif states != width and not projected:
        why = f"with embeddings of {width} numbers and states of {states}"
    else:
        return
    raise InputError(
        f"reader.encoder pretrained or scratch can't be used with a {type(model).__name__}, {why}; set reader.encoder to embeddings"
    )


def embedding_rms(lm: FrozenLM) -> Float[Tensor, ""]:
    """The root mean square of the numbers in token embeddings."""
    tokens = id_count(lm.tokenizer)
    return lm.embed(torch.arange(0, tokens, -(-tokens // SAMPLED))).square().mean().sqrt()
