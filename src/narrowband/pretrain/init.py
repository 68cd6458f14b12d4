"""Starting weights with which a small Llama learns to look things up in its context from the first steps.

With the usual random start, recall stayed at chance for hundreds of steps (docs/log.md). These weights contain what a model
otherwise needs most of its training to find: heads that look one, two and three tokens back, a head that
averages the last few tokens, heads that match what those wrote, and value paths that copy. The circuit is from Olsson et
al. 2022, "In-context Learning and Induction Heads" (arXiv:2209.11895), and the idea of starting attention from structure
rather than noise from Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers" (arXiv:2305.09828).
Training may change all of it.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

EMBEDDING_STD = 0.3
"""At the usual 0.02, what attention adds to a token drowns out its identity."""

SPECTRUM_EXPONENT = 0.35
"""Standard deviation of dimension i (1, 2, …) at the start: i^-0.35, times a constant.

`pretrain.held_spectrum` makes the spectrum steeper, as it weighs tokens by their counts; this start is near its result.
"""

FINAL_NORM = 0.1
"""Gain of the last norm. The head is tied to embeddings of large norm; with a gain of 1, the loss would start near 70 nats."""

COPY_GAIN = 0.5
MAX_OFFSET = 3
LOOK_BACK_WRITE, GATHER_WRITE = 0.3, 0.75


class Preference(NamedTuple):
    """How a head scores distances: `sum_i gain^2 cos(theta_i (distance - centre))` over some rotary frequencies.

    Higher frequencies (lower indices) make the peak narrower. With `away`, the sign is reversed.
    """

    gain: float
    frequencies: slice
    centre: float
    away: bool = False

    def impose(self, attention: LlamaAttention, rows: slice, theta: Tensor) -> None:
        """Set the biases of the head that owns `rows`: the query bias is the key bias rotated by `centre` positions."""
        half = (rows.stop - rows.start) // 2
        first = slice(rows.start + self.frequencies.start, rows.start + self.frequencies.stop)
        second = slice(first.start + half, first.stop + half)
        angle = theta[self.frequencies] * self.centre
        sign = -1.0 if self.away else 1.0
        attention.k_proj.bias[first] = self.gain
        attention.q_proj.bias[first] = sign * self.gain * torch.cos(angle)
        attention.q_proj.bias[second] = -sign * self.gain * torch.sin(angle)


@torch.no_grad()
def initialize(model: LlamaForCausalLM, seed: int) -> None:
    """Set the starting weights of `model`, whose attention has biases and whose embeddings are tied.

    Heads of layer 0 write projections of earlier tokens, each into a subspace of its own: head h of the token h + 1
    back, and the fourth head a mean over the last eight or so, from which a value knows the name it belongs to.
    Head h of layer 1 compares what stands h tokens before the present token with what stands h + 1 tokens before each
    earlier one, so it finds what followed the present token, or the present two or three, last time; the fourth
    compares the means, far from the present place, so it finds where the same words were used before. Every other
    value path begins as a scaled copy.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = model.config.hidden_size

    def orthogonal() -> Tensor:
        return nn.init.orthogonal_(torch.empty(hidden, hidden), generator=generator)

    spectrum = torch.arange(1, hidden + 1) ** -SPECTRUM_EXPONENT
    spectrum *= EMBEDDING_STD / spectrum.square().mean().sqrt()
    nn.init.normal_(model.model.embed_tokens.weight, generator=generator).mul_(spectrum)
    nn.init.constant_(model.model.norm.weight, FINAL_NORM)
    layers = cast(list[LlamaDecoderLayer], model.model.layers)
    for layer in layers:
        rotation = orthogonal()
        layer.self_attn.v_proj.weight.copy_(rotation * COPY_GAIN**0.5)
        layer.self_attn.o_proj.weight.copy_(rotation.T * COPY_GAIN**0.5)

    _set_heads(layers[0].self_attn, layers[1].self_attn, spectrum, model.model.rotary_emb.inv_freq, orthogonal())


def _set_heads(
    look_back: LlamaAttention, match: LlamaAttention, spectrum: Tensor, theta: Tensor, basis: Tensor
) -> None:
    """The heads of layers 0 (`look_back`) and 1 (`match`) that `initialize` describes.

    Shapes: `spectrum` [hidden], standard deviations of the embeddings; `theta` [size / 2], the rotary frequencies; `basis`
    [hidden, hidden], whose blocks of columns are the subspaces that the heads of layer 0 write to.
    """
    hidden, size = len(spectrum), look_back.head_dim
    offsets = min(MAX_OFFSET, hidden // size)
    read = torch.eye(size, hidden) * (EMBEDDING_STD / spectrum).sqrt()  # [size, hidden], what a head reads of a token
    read *= (size / (read @ (spectrum / EMBEDDING_STD)).square().sum()).sqrt()
    written = basis.split(size, dim=1)  # each [hidden, size], where a head of layer 0 writes it
    for head in range(offsets):
        rows = slice(head * size, (head + 1) * size)
        look_back.v_proj.weight[rows] = read
        look_back.o_proj.weight[:, rows] = written[head] * LOOK_BACK_WRITE
        Preference(5.0, slice(0, 6), head + 1).impose(look_back, rows, theta)
        match.q_proj.weight[rows] = read if head == 0 else written[head - 1].T
        match.k_proj.weight[rows] = written[head].T
    if hidden // size > offsets:
        rows = slice(offsets * size, (offsets + 1) * size)
        look_back.v_proj.weight[rows] = read
        look_back.o_proj.weight[:, rows] = written[offsets] * GATHER_WRITE
        Preference(3.0, slice(3, 7), 4).impose(look_back, rows, theta)
        match.q_proj.weight[rows] = written[offsets].T
        match.k_proj.weight[rows] = written[offsets].T
        Preference(3.0, slice(6, 9), 0, away=True).impose(match, rows, theta)
