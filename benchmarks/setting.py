"""The committed setting, small enough to be measured: base model, prompts of the bundled world, a codec."""

from functools import cache

import torch

from narrowband.codec.batches import token_windows
from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.data.prompts import EncodedPrompt, encode_answer, encode_prompt
from narrowband.data.splits import world_example
from narrowband.data.squad import Example
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params, load_params
from narrowband.training.phase2 import Lesson

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
    """The first training questions of the bundled world."""
    return [world_example(0, "train", i) for i in range(n)]


def prompts(n: int) -> list[EncodedPrompt]:
    """Their prompts."""
    params, tokenizer = load_params(), base_lm().tokenizer
    return [encode_prompt(tokenizer, e.context, e.question, params.prompt) for e in examples(n)]


def lessons(n: int) -> list[Lesson]:
    """Their prompts with the gold answers."""
    tokenizer = base_lm().tokenizer
    answers = [encode_answer(tokenizer, e.golds[0]) for e in examples(n)]
    return [Lesson(prompt, answer) for prompt, answer in zip(prompts(n), answers, strict=True)]


@cache
def codec(window: int) -> Codec:
    """A codec with a fitted PCA and an adapter whose last layer is no longer zero."""
    lm, params = base_lm(), setting(window)
    vectors, windows = token_windows(lm, prompts(600), window)
    pca = PCA.fit(vectors, params.compress_dim, windows)
    made = Codec(pca, lm.hidden_size, params)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(made.adapter.leave.weight, std=1e-3, generator=generator)
    return made
