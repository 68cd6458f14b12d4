"""`make bench-profile`: where the time of each stage goes, and a lower bound on this machine."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy import linalg
from torch import nn

from benchmarks.measure import bandwidth, flops, interleaved, matmul_peak
from benchmarks.results import save
from benchmarks.setting import base_lm, codec, examples, lessons, phase_loss, prompts, setting
from narrowband.codec.moments import window_moments
from narrowband.codec.token_windows import token_windows
from narrowband.data.prompts import collate, encode_prompts
from narrowband.evaluation.reconstruction import Quality
from narrowband.pretrain.bundled_model import Recipe, build_model, weighted_cross_entropy
from narrowband.pretrain.bundled_model import batch as pretraining_batch
from narrowband.pretrain.muon import Muon
from narrowband.runtime.entry import console, set_up_torch
from narrowband.training.draws import Draws

WINDOW = 16
SYSTEMS = 3
"""How many systems `evaluate` answers with."""

ADAMW_BYTES = 28
"""Bytes that AdamW moves for each float32 parameter: four numbers read, three written."""


@dataclass(frozen=True)
class Part:
    """A part of a stage: calls in a run, seconds of one call, and the FLOPs and bytes that a call needs at least."""

    stage: str
    part: str
    calls: int
    seconds: float
    flops: float = 0
    bytes: float = 0

    def floor(self, peak: float, bytes_a_second: float) -> float:
        """Minimum seconds of one call: max(FLOPs / peak, bytes / bandwidth)."""
        return max(self.flops / peak, self.bytes / bytes_a_second)


def part(stage: str, name: str, calls: int, run: Callable[[], Any], **least: float) -> Part:
    """Time a call; the FLOPs are counted where they are not given."""
    if "flops" not in least:
        least["flops"] = flops(run)
    return Part(stage, name, calls, interleaved({name: run}, 3)[name], **least)


def pca_parts() -> list[Part]:
    """`fit_pca`."""
    lm, params, some = base_lm(), setting(WINDOW), 600
    asked = prompts(some)
    calls = params.data.train // some

    vectors, windows = token_windows(lm, asked, WINDOW)
    (n, hidden), width, pairs = vectors.shape, WINDOW * lm.hidden_size, WINDOW * (WINDOW + 1) // 2
    _, covariance = window_moments(vectors, windows)
    subset = (width - params.compress_dim, width - 1)
    return [
        part("fit_pca", "tokenise", calls, lambda: encode_prompts(lm.tokenizer, examples(some), params.prompt)),
        part("fit_pca", "windows of ids", calls, lambda: token_windows(lm, asked, WINDOW)),
        part(
            "fit_pca",
            "covariance",
            1,
            lambda: window_moments(vectors, windows.repeat(calls, 1)),
            flops=2 * pairs * n * hidden**2,
            bytes=8 * width**2,
        ),
        part(
            "fit_pca",
            "eigenvectors",
            1,
            lambda: linalg.eigh(covariance.numpy(), subset_by_index=subset, check_finite=False),
            flops=4 / 3 * width**3 + 2 * width**2 * params.compress_dim,
        ),
    ]


def phase_parts(phase: str) -> list[Part]:
    """`train_phase1` or `train_phase2`."""
    lm, made, params = base_lm(), codec(WINDOW).train(), setting(WINDOW)
    training = params.phase1 if phase == "phase1" else params.phase2
    trainable = [p for p in made.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-9, fused=True)
    taught = lessons(600)
    asked, draws = [lesson.prompt for lesson in taught], Draws(params.seed, training.batch_size)
    step_loss = phase_loss(phase, lm, made, taught, params)

    def loss_and_gradients() -> None:
        optimizer.zero_grad(set_to_none=True)
        step_loss(0).loss.backward()

    def update() -> None:
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()

    stage, moved = f"train_{phase}", ADAMW_BYTES * sum(p.numel() for p in trainable)
    return [
        part(
            stage,
            "draw a batch",
            training.steps,
            lambda: collate(draws.batch(asked, 0), lm.pad_id),
        ),
        part(stage, "loss and gradients", training.steps, loss_and_gradients),
        part(stage, "clip and AdamW", training.steps, update, bytes=moved),
    ]


def evaluation_parts() -> list[Part]:
    """`evaluate`."""
    lm, made, params = base_lm(), codec(WINDOW).eval(), setting(WINDOW)
    size = params.generation.batch_size
    by_length = sorted(prompts(600), key=lambda prompt: len(prompt.ids))
    batch = collate(by_length[len(by_length) // 2 :][:size], lm.pad_id)  # of usual length
    calls = SYSTEMS * -(-params.data.test // size)
    original = lm.embed(batch.ids)

    @torch.no_grad()
    def through_codec() -> None:
        made(original, batch.coded)

    def quality() -> None:
        tokens, ids, found = original[batch.coded], batch.ids[batch.coded], Quality()
        found.add(tokens, tokens, ids)
        found.match(lm.nearest(tokens), ids)

    return [
        part("evaluate", "codec", calls, through_codec),
        part("evaluate", "nearest tokens and other quality", calls, quality),
        part("evaluate", "read the prompts", calls, lambda: lm.generate(original, batch.mask, 1)),
        part(
            "evaluate",
            "read and answer",
            calls,
            lambda: lm.generate(original, batch.mask, params.generation.max_new_tokens),
        ),
    ]


def pretraining_parts() -> list[Part]:
    """`pretrain_base`, without its evaluations."""
    lm, recipe = base_lm(), Recipe()
    model = build_model(recipe, lm.tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    optimizer = Muon(matrices, lr=recipe.lr_matrices)
    ids, weights = pretraining_batch(recipe, recipe.steps // 2, lm.tokenizer)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        weighted_cross_entropy(model(input_ids=ids).logits, ids, weights).backward()

    name = f"loss and gradients of {ids.numel()} tokens"
    return [
        part("pretrain_base", name, recipe.steps, step),
        part("pretrain_base", "Muon", recipe.steps, optimizer.step),
    ]


def main() -> None:
    """Print and save the parts of every stage."""
    set_up_torch()
    parts = [
        *pretraining_parts(),
        *pca_parts(),
        *phase_parts("phase1"),
        *phase_parts("phase2"),
        *evaluation_parts(),
    ]
    peak, speed = matmul_peak(), bandwidth()
    rows = [
        [
            one.stage,
            one.part,
            f"{one.calls}",
            f"{1e3 * one.seconds:.1f}",
            f"{1e3 * one.floor(peak, speed):.1f}",
            f"{one.calls * one.seconds:.1f}",
        ]
        for one in parts
    ]
    for row in rows:
        console.print(*row, sep="  ", highlight=False)
    content = [{**asdict(one), "floor": one.floor(peak, speed)} for one in parts]
    save("profile", content, ["stage", "part", "calls", "ms a call", "floor, ms", "s in a run"], rows)


if __name__ == "__main__":
    main()
