"""Steps of both phases: against the plain step, the machine's peak and the frozen model's own passes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks import reference
from benchmarks.measure import Row, flops, interleaved, matmul_peak
from benchmarks.setting import base_lm, codec, lessons, phase_loss, prompts, prompts_after, setting
from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.folded import reconstruct
from narrowband.codec.pca import PCA
from narrowband.data.prompts import collate
from narrowband.lm.device import mixed_precision, native_bfloat16
from narrowband.training.draws import Draws
from narrowband.training.loop import StepLoss
from narrowband.training.losses import Reconstruction, reconstruction_loss
from narrowband.training.phase1 import coded_tokens
from narrowband.training.phase2 import Lesson, LessonRows, answer_logits, lay_out

WIDTH, TOKENS = 4096, 2048
SHOTS = 2
"""Worked examples before each question."""


def stepper(module: nn.Module, step_loss: Callable[[int], StepLoss]) -> Callable[[], None]:
    """A step of training as `training.loop` does it: loss, gradients, clipping, AdamW."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        step_loss(0).loss.backward()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()

    return step


def distinct_tokens(batch_size: int) -> Row:
    """Phase 1 at window 1."""
    lm, made, params = base_lm(), codec(1).train(), setting(1)
    batch = collate(Draws(params.seed, batch_size).batch(prompts(600), 0), lm.pad_id)
    distinct, coded = len(batch.ids[batch.coded].unique()), int(batch.coded.sum())
    ways = {"per position": reference.coded_tokens, "distinct tokens": coded_tokens}
    steps = {
        name: stepper(made, lambda step, way=way: reconstruction_loss(way(lm, made, batch), params.loss.phase1))
        for name, way in ways.items()
    }
    times = interleaved(steps, 5)
    return Row(
        f"Phase 1 step at window 1 on distinct tokens, against per position, {batch_size} prompts",
        times["per position"] / times["distinct tokens"],
        5,
        True,
        times,
        {"positions": coded, "distinct_tokens": distinct},
        f"about {coded / distinct:.1f}x: what is computed once for each distinct token is {distinct} of {coded} positions",
    )


def phase1_efficiency() -> Row:
    """Phase 1 at width 4096: every matrix of the adapter is 4096 x 4096."""
    params = setting(1)
    config = replace(
        CodecConfig.of(params), adapter=params.adapter.model_copy(update={"hidden_mult": 1, "detectors": WIDTH})
    )
    generator = torch.Generator().manual_seed(0)
    components = torch.linalg.qr(torch.randn(WIDTH, 256, generator=generator)).Q.T.contiguous()
    pca = PCA(components, torch.zeros(WIDTH), torch.ones(256), torch.ones(1) * WIDTH)
    made = Codec(pca, config).train()
    original = torch.randn(TOKENS, WIDTH, generator=generator)
    counts = torch.ones(TOKENS, dtype=torch.long)

    def step_loss(step: int) -> StepLoss:
        return reconstruction_loss(Reconstruction(original, made.tokens(original), counts), params.loss.phase1)

    step = stepper(made, step_loss)
    work = flops(step)
    peak = matmul_peak()
    times = interleaved({"step": step}, 3)
    peak = max(peak, matmul_peak())
    return Row(
        "Phase 1 step: matmul FLOPs over time x matmul peak, width 4096",
        work / times["step"] / peak,
        0.6,
        True,
        times,
        {"gflops_of_a_step": work / 1e9, "peak_gflops_a_second": peak / 1e9},
    )


def phase2_step(window: int, teacher_top_k: int = 0) -> Row:
    """Phase 2 against the frozen model's passes on the same batch; with `teacher_top_k`, the teacher's are done beforehand."""
    lm, made, params = base_lm(), codec(window).train(), setting(window)
    asked = {"teacher_top_k": teacher_top_k, "steps": 1}
    params = params.model_copy(update={"phase2": params.phase2.model_copy(update=asked)})
    taught = lessons(600)
    drawn = Draws(params.seed, params.phase2.batch_size).batch(taught, 0)
    batch = collate([lesson.prompt for lesson in drawn], lm.pad_id, [lesson.answer[:-1] for lesson in drawn])
    longest = max(len(lesson.answer) for lesson in drawn)

    def frozen() -> None:
        embeddings = lm.embed(batch.ids).requires_grad_()
        lm.logits(embeddings, batch.mask, longest).square().mean().backward()

    def teacher() -> None:
        with torch.no_grad():
            lm.logits(lm.embed(batch.ids), batch.mask, longest)

    def through_codec() -> None:
        reconstruct(made, lm, lm.embed(batch.ids), batch).square().mean().backward()

    step = stepper(made, phase_loss("phase2", lm, made, taught, params))
    times = interleaved({"step": step, "frozen LM": frozen, "teacher": teacher, "codec": through_codec}, 5)
    parts = {name: times[name] / times["frozen LM"] for name in ("teacher", "codec")}
    kept = f", with phase2.teacher_top_k: {teacher_top_k}" if teacher_top_k else ""
    teacher_too = "" if teacher_top_k else f"the teacher's forward is {parts['teacher']:.2f} and "
    return Row(
        f"Phase 2 step at window {window}{kept}, against the frozen LM's forward and backward to its inputs alone",
        times["step"] / times["frozen LM"],
        1.35,
        False,
        times,
        {f"{name}_over_frozen_lm": share for name, share in parts.items()},
        f"{teacher_too}the codec's passes are {parts['codec']:.2f} of the LM's passes",
    )


def mixed(phase: str, bar: float) -> Row:
    """A step of `phase1` or `phase2` at window 16 as its stage does it, against the same step in float32."""
    lm, made, params = base_lm(), codec(16).train(), setting(16)
    exact = phase_loss(phase, lm, made, lessons(600), params)

    def in_mixed_precision(step: int) -> StepLoss:
        with mixed_precision():
            return exact(step)

    losses = {"float32": exact, "bfloat16 products": in_mixed_precision}
    gradients = [gradient(made, loss(0)) for loss in losses.values()]
    times = interleaved({name: stepper(made, loss) for name, loss in losses.items()}, 5)
    return Row(
        f"{phase} step at window 16 with bfloat16 products, against float32",
        times["float32"] / times["bfloat16 products"],
        bar,
        True,
        times,
        {"cosine_of_gradients": float(nn.functional.cosine_similarity(*gradients, dim=0))},
        "" if native_bfloat16() else "this CPU does not multiply bfloat16 itself, so both steps are the same",
    )


def gradient(module: nn.Module, loss: StepLoss) -> Tensor:
    """All gradients of `module`'s parameters, in one vector."""
    module.zero_grad(set_to_none=True)
    loss.loss.backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def shared_examples() -> Row:
    """The frozen model's passes of Phase 2 after worked examples, computed once or with every prompt."""
    lm, params = base_lm(), setting(16)
    few = prompts_after(SHOTS, params.phase2.batch_size)
    rows = lay_out(lm, [Lesson(prompt, lesson.answer) for prompt, lesson in zip(few, lessons(len(few)), strict=True)])
    whole = rows._replace(batch=rows.batch._replace(shared=()))

    def passes(asked: LessonRows) -> Tensor:
        embeddings = lm.embed(asked.batch.ids).requires_grad_()
        with torch.no_grad():
            answer_logits(lm, embeddings, asked)
        logits = answer_logits(lm, embeddings, asked)
        logits.square().mean().backward()
        return logits.detach()

    expected, found = passes(whole), passes(rows)
    times = interleaved({"whole": lambda: passes(whole), "shared": lambda: passes(rows)}, 5)
    lengths = {"tokens_of_examples": few[0].shared, "tokens_of_prompts": sum(len(one.ids) for one in few) / len(few)}
    return Row(
        f"teacher's and student's passes of a Phase 2 step after {SHOTS} worked examples, computed once, against whole prompts",
        times["whole"] / times["shared"],
        1.5,
        True,
        times,
        {**lengths, "relative difference of logits": float((found - expected).norm() / expected.norm())},
    )
