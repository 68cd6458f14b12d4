"""Starting weights with which a small Llama can look things up in its context from the first steps.

From the customary start, recall sat at chance for hundreds of steps (docs/log.md). These weights begin with what such
a model otherwise spends most of its training to find: heads that look one, two and three tokens back, heads that
match what they wrote, and value paths that copy. The circuit is that of Olsson et al. 2022, "In-context Learning and
Induction Heads" (arXiv:2209.11895); starting attention from a structure rather than from noise, that of Trockman and
Kolter 2023, "Mimetic Initialization of Self-Attention Layers" (arXiv:2305.09828). Training is free to change all of it.
"""

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

EMBEDDING_STD = 0.3
"""At the customary 0.02 a token's identity drowns in what attention adds to it."""

FINAL_NORM = 0.1
"""Gain of the last norm: tied to wide embeddings, a gain of 1 would start at a loss near 70 nats."""

LOOK_BACK_GAIN = 5.0
FAST_FREQUENCIES = 6
COPY_GAIN = 0.5
LOOK_BACK_WRITE = 0.3
MAX_OFFSET = 3

BAG_GAIN, BAG_CENTRE, BAG_FREQUENCIES = 3.0, 4.0, slice(3, 7)
BAG_WRITE = 0.75
FAR_GAIN, FAR_FREQUENCIES = 3.0, slice(6, 9)


@torch.no_grad()
def initialize(model: LlamaForCausalLM, seed: int) -> None:
    """Set the starting weights of `model`, whose attention has biases and whose embeddings are tied.

    Head h of layer 0 looks h + 1 tokens back and writes a projection of the token there into a subspace of its own.
    Head h of layer 1 compares what stands h tokens before the present token with what stands h + 1 tokens before each
    earlier one, so it finds what followed the present token, or the present two or three, last time. Every other
    value path begins as a scaled copy.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden, heads = model.config.hidden_size, model.config.num_attention_heads
    size, offsets = hidden // heads, min(MAX_OFFSET, heads)

    def orthogonal() -> Tensor:
        return torch.nn.init.orthogonal_(torch.empty(hidden, hidden), generator=generator)

    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD, generator=generator)
    torch.nn.init.constant_(model.model.norm.weight, FINAL_NORM)
    for layer in model.model.layers:
        rotation = orthogonal()
        layer.self_attn.v_proj.weight.copy_(rotation * COPY_GAIN**0.5)
        layer.self_attn.o_proj.weight.copy_(rotation.T * COPY_GAIN**0.5)

    look_back, induct = (layer.self_attn for layer in model.model.layers[:2])
    identity = orthogonal()[:size]  # [size, hidden], what a head reads of a token
    written = orthogonal().split(size, dim=1)  # each [hidden, size], where a looking-back head writes it
    theta = model.model.rotary_emb.inv_freq[:FAST_FREQUENCIES]
    for head in range(offsets):
        rows = slice(head * size, (head + 1) * size)
        look_back.v_proj.weight[rows] = identity
        look_back.o_proj.weight[:, rows] = written[head] * LOOK_BACK_WRITE
        induct.q_proj.weight[rows] = identity if head == 0 else written[head - 1].T
        induct.k_proj.weight[rows] = written[head].T
        # Biases b, turned by one angle, score a distance by sum_i b^2 cos(theta_i (distance - offset)).
        first, second = rows.start, rows.start + size // 2
        look_back.k_proj.bias[first : first + len(theta)] = LOOK_BACK_GAIN
        look_back.q_proj.bias[first : first + len(theta)] = LOOK_BACK_GAIN * torch.cos(theta * (head + 1))
        look_back.q_proj.bias[second : second + len(theta)] = -LOOK_BACK_GAIN * torch.sin(theta * (head + 1))
    if heads > offsets:
        rows = slice(offsets * size, (offsets + 1) * size)
        look_back.v_proj.weight[rows] = identity
        look_back.o_proj.weight[:, rows] = written[offsets] * BAG_WRITE
        point(look_back, rows, model.model.rotary_emb.inv_freq, BAG_FREQUENCIES, BAG_GAIN, BAG_GAIN, BAG_CENTRE)
        induct.q_proj.weight[rows] = written[offsets].T
        induct.k_proj.weight[rows] = written[offsets].T
        point(induct, rows, model.model.rotary_emb.inv_freq, FAR_FREQUENCIES, FAR_GAIN, -FAR_GAIN, 0.0)


def point(attention, rows, frequencies, which, key_gain, query_gain, offset):
    half = (rows.stop - rows.start) // 2
    theta = frequencies[which]
    first = slice(rows.start + which.start, rows.start + which.stop)
    second = slice(first.start + half, first.stop + half)
    attention.k_proj.bias[first] = key_gain
    attention.q_proj.bias[first] = query_gain * torch.cos(theta * offset)
    attention.q_proj.bias[second] = -query_gain * torch.sin(theta * offset)
