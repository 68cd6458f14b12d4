"""Predicted peak memory of each stage, from the base model's configuration and `params.yaml` alone.

Counts the tensors that are alive together at the worst moment, for prompts as long as `prompt.max_length` and answers as
long as `generation.max_new_tokens`. Blocks are taken to be Llama's (two norms in float32, SDPA attention with a mask, a gated
MLP), the adapter to be the residual one, the teacher to be asked at every step. What the allocator and CUDA itself hold on
top is not counted.
"""

from typing import NamedTuple

import torch
from rich.table import Table
from transformers import PreTrainedModel

from narrowband.codec.adapter import Shape, make_adapter
from narrowband.codec.pca import PCA
from narrowband.evaluation.reconstruction import BLOCK
from narrowband.params import Params

FLOAT = 4
"""Bytes of a float32: embeddings, codec and losses are never smaller."""
SIZES = {"GPU, bfloat16": 2, "CPU, float32": 4}
"""Bytes of a component of the base model, by where it runs."""


class Peak(NamedTuple):
    """Bytes held throughout a stage (weights, optimizer state), and at the most beside them."""

    held: int
    working: int

    @property
    def total(self) -> int:
        """All bytes at the worst moment."""
        return self.held + self.working


class Geometry(NamedTuple):
    """What of a base model and its adapter its memory depends on; `size` is in bytes a component of the model."""

    parameters: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    head_dim: int
    key_values: int
    vocabulary: int
    adapter: int
    size: int

    @classmethod
    def of(cls, model: PreTrainedModel, params: Params, size: int) -> "Geometry":
        """That of `model`, which needs no weights."""
        text = model.config.get_text_config()
        hidden, heads = text.hidden_size, text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or hidden // heads
        with torch.device("meta"):
            vector_dim = params.vector_dim(hidden)
            components = torch.ones(params.compress_dim, vector_dim)
            pca = PCA(components, components[0], components[:, 0], torch.ones(1))
            adapter = make_adapter(pca, Shape(params.window, hidden), params.adapter)
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            hidden=hidden,
            intermediate=getattr(text, "intermediate_size", None) or getattr(text, "ffn_dim", None) or 4 * hidden,
            layers=text.num_hidden_layers,
            heads=heads,
            head_dim=head_dim,
            key_values=(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
            vocabulary=text.vocab_size,
            adapter=sum(p.numel() for p in adapter.parameters()),
            size=size,
        )


def predict(geometry: Geometry, params: Params) -> dict[str, Peak]:
    """The peak of every stage that takes much; `baselines` and `diagnose` answer questions as `evaluate` does."""
    g = geometry
    answers = max(_codec(g, params), _quality(g, params), _generation(g, params))
    weights = (
        g.parameters * g.size + g.vocabulary * g.hidden * FLOAT
    )  # with the float32 table that tokens are matched to
    pca = params.compress_dim * params.vector_dim(g.hidden) * FLOAT
    # Weights, gradients, two moments and the best weights so far; AdamW takes as much as the gradients while it steps.
    trained = weights + pca + 5 * g.adapter * FLOAT
    step = g.adapter * FLOAT
    return {
        "fit_pca": Peak(g.parameters * g.size, _pca(g, params)),
        "train_phase1": Peak(trained, max(answers, step, _phase1(g, params))),
        "train_phase2": Peak(trained, max(answers, step, _phase2(g, params))),
        "evaluate": Peak(weights + pca + 2 * g.adapter * FLOAT, answers),
    }


def _pca(g: Geometry, params: Params) -> int:
    """Three times the embeddings of all tokens, and the covariance with its leading eigenvectors, in float64: main memory.

    The training prompts themselves are not counted, for which eight bytes a token are kept.
    """
    vector_dim = params.vector_dim(g.hidden)
    return 3 * g.vocabulary * g.hidden * FLOAT + vector_dim * (vector_dim + 2 * params.compress_dim) * 8


def _phase1(g: Geometry, params: Params) -> int:
    """What is kept of a micro-batch, with its coded tokens and five of their size in the loss; or the adapter's gradients."""
    tokens = (params.phase1.micro_batch or params.phase1.batch_size) * params.prompt.max_length
    return max(tokens * (_kept(g, params) + 5 * g.hidden * FLOAT), _adapter_gradients(g, params, tokens))


def _phase2(g: Geometry, params: Params) -> int:
    """What adapter and blocks keep of a micro-batch, and the larger of the loss over logits and a block's gradients."""
    rows = params.phase2.micro_batch or params.phase2.batch_size
    answer = params.generation.max_new_tokens
    length = params.prompt.max_length + answer - 1
    tokens = rows * length
    block = 2 * g.hidden * FLOAT + (4 * g.heads * g.head_dim + 3 * g.intermediate + length) * g.size + g.heads * FLOAT
    gradients = 3 * g.intermediate * g.size + 2 * g.hidden * FLOAT
    blocks = g.layers * block
    if params.phase2.gradient_checkpointing:
        blocks, gradients = g.layers * g.hidden * g.size, gradients + block
    logits = 9 * rows * answer * g.vocabulary * FLOAT
    through_blocks = tokens * (_kept(g, params) + blocks) + max(logits, tokens * gradients)
    return max(through_blocks, _adapter_gradients(g, params, tokens))


def _kept(g: Geometry, params: Params) -> int:
    """Bytes of a token's embedding, its reconstruction, and what the adapter keeps for its backward pass."""
    inputs = 3 if params.window > 1 else 1
    return ((4 + inputs) * g.hidden + 4 * params.adapter.hidden_mult * g.hidden) * FLOAT


def _adapter_gradients(g: Geometry, params: Params, tokens: int) -> int:
    """The gradients of the adapter's hidden layer, in the backward pass."""
    inputs, width = 3 if params.window > 1 else 1, params.adapter.hidden_mult * g.hidden
    return (tokens * ((2 + inputs) * g.hidden + 5 * width) + width**2) * FLOAT


def _codec(g: Geometry, params: Params) -> int:
    """A batch of prompts through the adapter, without gradients."""
    tokens = params.generation.batch_size * params.prompt.max_length
    return tokens * (6 * g.hidden + 3 * params.adapter.hidden_mult * g.hidden) * FLOAT


def _quality(g: Geometry, params: Params) -> int:
    """Original and reconstructed embeddings, and the cosine of a block of them with the whole vocabulary."""
    tokens = params.generation.batch_size * params.prompt.max_length
    return (5 * tokens * g.hidden + g.vocabulary * g.hidden + min(tokens, BLOCK) * (g.vocabulary + g.hidden)) * FLOAT


def _generation(g: Geometry, params: Params) -> int:
    """Keys and values of a batch of prompts, its embeddings, and the widest moment of a block."""
    rows, length = params.generation.batch_size, params.prompt.max_length
    cache = 2 * g.layers * g.key_values * (length + params.generation.max_new_tokens) * g.size
    inner = length * (2 * g.hidden * FLOAT + (4 * g.hidden + 3 * g.intermediate + length) * g.size)
    return rows * (cache + inner)


def table(model: PreTrainedModel, params: Params) -> Table:
    """Predicted peaks in GB (10^9 bytes), by where the base model runs."""
    shown = Table("stage", title=f"predicted peak memory in GB, {params.base_model}")
    columns = []
    for where, size in SIZES.items():
        shown.add_column(where, justify="right")
        columns.append(predict(Geometry.of(model, params, size), params))
    for stage in columns[0]:
        shown.add_row(stage, *(f"{column[stage].total / 1e9:.1f}" for column in columns))
    return shown
