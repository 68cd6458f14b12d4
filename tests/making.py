"""What the stages make of `params.yaml`, for tests that skip the stages."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from narrowband.codec.codec import Codec
from narrowband.codec.coder import LatentCoder, Rate
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import coded_lengths, token_windows
from narrowband.data.encoded import EncodedPrompt, EncodedPrompts
from narrowband.data.settled import FILE, asked_for
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime.artifacts import write_config
from narrowband.runtime.files import write_json
from narrowband.training.draws import Draws
from narrowband.training.micro_batches import PhaseLoss
from narrowband.training.phase1 import drawn_prompts, phase1_loss
from narrowband.training.phase2 import Lesson, Material, phase2_loss


def answerer_of(lm: FrozenLM, params: Params) -> QuestionAnswerer:
    generation = params.generation
    return QuestionAnswerer(lm, params.prompt, generation.max_new_tokens, generation.batch_size, generation.stop)


def codec_of(pca: PCA, params: Params, *, pca_only: bool = False) -> Codec:
    return Codec(pca, CodecConfig.of(params), seed=params.seed, pca_only=pca_only)


def streaming_codec_of(lm: FrozenLM, prompts: EncodedPrompts, params: Params) -> Codec:
    """A codec fitted to `prompts` that writes streams; its last layer is random, so that it returns neither PCA nor original."""
    vectors, windows = token_windows(lm, prompts, params.window)
    pca, config = PCA.fit(vectors, params.compress_dim, windows), CodecConfig.of(params)
    codec = Codec(
        pca,
        config,
        LatentCoder.fit(pca, vectors, windows, Rate(config.latent_coding, config.magnitude, coded_lengths(prompts))),
    )
    nn.init.normal_(codec.adapter.leave.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return codec


def phase1_loss_of(lm: FrozenLM, codec: Codec, prompts: Sequence[EncodedPrompt], params: Params) -> PhaseLoss:
    draws = Draws(params.seed, params.phase1.batch_size)
    drawn = drawn_prompts(lm.tokenizer, prompts, draws, params.vocabulary_share)
    return phase1_loss(lm, codec, drawn, params.loss.phase1)


def phase2_loss_of(
    lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson], params: Params, sft: Sequence[Lesson] = ()
) -> PhaseLoss:
    material = Material(lessons, params.seed, sft, params.data.phase2_sft_share)
    return phase2_loss(lm, codec, material, params.phase2, params.loss)


def seal_questions(folder: Path, params: Params) -> None:
    """Write what `generate_data` writes beside the questions in `folder`, with BOS and without worked examples."""
    write_json(folder / FILE, {"bos": "text", "examples": ""})
    write_config(folder, asked_for(params.prompt))
