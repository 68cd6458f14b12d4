"""A small version of the committed setting: base model, prompts of the bundled world, a codec."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.fitting import fit_pca
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import encode_answer, encode_prompts
from narrowband.data.settled import draw_shots, with_examples
from narrowband.data.splits import world_example
from narrowband.data.squad import Example
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime.parameters import load_params
from narrowband.training.draws import Draws
from narrowband.training.micro_batches import PhaseLoss
from narrowband.training.phase1 import drawn_prompts, phase1_loss
from narrowband.training.phase2 import Lesson, Material, phase2_loss

DATA = Path(os.environ.get("DATA", "../shared/data"))
"""Folder of the question files of other data sets."""

SIXTEEN_TIMES = {1: 16, 16: 256}
"""`compress_dim` by window, for a compression of 16x at hidden 256."""


@cache
def base_lm() -> FrozenLM:
    """The bundled base model."""
    return FrozenLM.load(load_params().base_model)


def setting(window: int) -> Params:
    """The committed parameters at `window` and 16x."""
    return load_params().model_copy(update={"window": window, "compress_dim": SIXTEEN_TIMES[window]})


@cache
def examples(n: int) -> list[Example]:
    """The first `n` training questions of the bundled world."""
    return [world_example(0, "train", i) for i in range(n)]


def prompts(n: int) -> list[EncodedPrompt]:
    """The prompts of the first `n` training questions."""
    return encode_prompts(base_lm().tokenizer, examples(n), load_params().prompt)


def prompts_after(shots: int, n: int) -> list[EncodedPrompt]:
    """Prompts of `n` other questions, each after the same worked examples."""
    params = load_params()
    drawn = draw_shots(examples(n + shots), shots, params.seed)
    return encode_prompts(base_lm().tokenizer, drawn.train, with_examples(params.prompt, drawn.shots))


def lessons(n: int) -> list[Lesson]:
    """The prompts of the first `n` training questions, with the gold answers."""
    tokenizer = base_lm().tokenizer
    answers = [encode_answer(tokenizer, e.golds[0]) for e in examples(n)]
    return [Lesson(prompt, answer) for prompt, answer in zip(prompts(n), answers, strict=True)]


@cache
def codec(window: int) -> Codec:
    """A codec with a fitted PCA and an adapter whose last layer is no longer zero."""
    params = setting(window)
    pca = fit_pca(base_lm(), prompts(600), params.compress_dim, window)
    return without_zeros(Codec(pca, CodecConfig.of(params), seed=params.seed))


def without_zeros(made: Codec, seed: int = 0) -> Codec:
    """`made` with small random weights in the last layer of its adapter, which starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(made.adapter.leave.weight, std=1e-3, generator=generator)
    return made


def answerer(params: Params) -> QuestionAnswerer:
    """The base model, asked as `params` say."""
    generation = params.generation
    return QuestionAnswerer(base_lm(), params.prompt, generation.max_new_tokens, generation.batch_size, generation.stop)


def phase_loss(phase: str, lm: FrozenLM, made: Codec, taught: Sequence[Lesson], params: Params) -> PhaseLoss:
    """The loss of `phase1` or `phase2`, as its stage makes it."""
    if phase == "phase1":
        asked, draws = [lesson.prompt for lesson in taught], Draws(params.seed, params.phase1.batch_size)
        drawn = drawn_prompts(lm.tokenizer, asked, draws, params.vocabulary_share)
        return phase1_loss(lm, made, drawn, params.loss.phase1)
    return phase2_loss(lm, made, Material(taught, params.seed), params.phase2, params.loss)
