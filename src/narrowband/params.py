"""Every parameter of `params.yaml` with its meaning, unit and range. A typo or an impossible value is refused."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

PARAMS_FILE = Path("params.yaml")
EMBEDDINGS = "embeddings"
"""The `source` whose codec gets token embeddings; all others are states after a block."""


def first_line(error: Exception) -> str:
    """The first line of a library's error message, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class InputError(ValueError):
    """Bad input: one sentence with the value, what is allowed and the fix."""


def _real(value: Any) -> float:
    # `dvc exp run -S lr=0.00005` writes 5e-05, which YAML 1.1 reads as a string.
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("should be a number")
    return number


def _bits(value: int) -> int:
    if value not in (*range(2, 17), 32):
        raise ValueError("should be 32, 16, or 2 to 15")
    return value


def _source(value: str) -> str:
    if not re.fullmatch(r"embeddings|block-[1-9][0-9]{0,5}", value):
        raise ValueError("should be embeddings, or block-1, block-2 and so on")
    return value


def blocks_before(source: str) -> int:
    """The blocks of the base model that run before the codec: 0 for `embeddings`, k for `block-k`."""
    return 0 if source == EMBEDDINGS else int(source.removeprefix("block-"))


def _renamed(old: str, new: str) -> Callable[[Any], Any]:
    """A validator that refuses the value `old`, which is now called `new`."""

    def check(value: Any) -> Any:
        if value == old:
            raise ValueError(f"is now called {new}")
        return value

    return check


Magnitude = Literal["none", "token", "example", "calibrated"]
PromptStyle = Literal["few_shot", "completion"]
Unanswerable = Literal["refuse", "score"]
Stop = Literal["line", "sentence"]
SftBos = Literal["auto", "text", "none"]
BackendName = Literal["transformers", "vllm"]
Real = Annotated[float, BeforeValidator(_real)]
NonNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Place = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
"""A name that may be a path; a leading `~` is the home folder."""

Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


class Section(BaseModel):
    """A section of `params.yaml`: immutable, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Adapter(Section):
    """The fitted part of the decoder; its hidden width is `hidden_mult` times the hidden size (`layernorm`: `compress_dim`).

    `detectors` of the most frequent tokens are fitted in closed form before training (`layernorm` has none).
    """

    kind: Annotated[Literal["residual", "layernorm"], BeforeValidator(_renamed("seed", "layernorm"))]
    hidden_mult: Count
    detectors: Natural
    dropout: Annotated[Real, Field(ge=0, lt=1)]


class LatentCoding(Section):
    """How latents are coded: `fixed`, a grid of `latent_bits` bits per latent, or `entropy`, one step for all, entropy-coded.

    `step` is in units of the latents; 0 fits it so that training prompts cost `bits_per_token`. The other systems in
    `references` and `baselines` are fitted to `bits_per_token` whatever the kind.
    """

    kind: Literal["fixed", "entropy"]
    bits_per_token: Annotated[Real, Field(gt=0)]
    step: NonNegative


class ReconstructionLoss(Section):
    """Weights of the terms of Phase 1: 1 - cosine, and squared error relative to the mean square of the original."""

    cosine: NonNegative
    mse: NonNegative


class GenerationLoss(Section):
    """Weights of the terms of Phase 2; `kl_temperature` divides teacher and student logits."""

    cross_entropy: NonNegative
    kl: NonNegative
    kl_temperature: Annotated[Real, Field(gt=0)]
    reconstruction: NonNegative


class Loss(Section):
    """Loss weights of the two phases."""

    phase1: ReconstructionLoss
    phase2: GenerationLoss


class Training(Section):
    """Optimisation of a phase: AdamW steps, sequences per batch, peak learning rate, warm-up steps, steps between evaluations.

    The phase ends early after `patience` evaluations in a row without improvement, and at the first after one that was level
    with the uncompressed model (0: never). At most `micro_batch` sequences are computed at a time (0: the whole batch); the
    gradient is still that of the batch.
    """

    steps: Count
    batch_size: Count
    micro_batch: Natural
    lr: Annotated[Real, Field(gt=0)]
    warmup: Natural
    evaluate_every: Count
    patience: Natural

    @property
    def all_steps(self) -> int:
        """`steps`, and those before them."""
        return self.steps


class Phase1(Training):
    """`vocabulary_share` of the coded tokens, in each batch and in the PCA's windows, are replaced by random vocabulary tokens.

    So the codec also learns tokens that no training prompt contains. Special tokens are never drawn.
    """

    vocabulary_share: Share


class Phase2(Training):
    """Phase 2 starts from the adapter of Phase 1, or from a new one, without detectors (`scratch`).

    `gradient_checkpointing` recomputes the base model's blocks in the backward pass to save memory. `teacher_top_k` computes
    the teacher's logits once, before training, and keeps that many top tokens, all others merged; 0 computes them in full at
    every step.
    """

    start: Literal["phase1", "scratch"]
    gradient_checkpointing: Annotated[bool, Field(strict=True)]
    teacher_top_k: Natural

    def check_top_k(self, vocabulary: int) -> None:
        """Check that `teacher_top_k` is below the number of embeddings.

        Raises:
            InputError: it is not.
        """
        if self.teacher_top_k >= vocabulary:
            raise InputError(
                f"phase2.teacher_top_k {self.teacher_top_k} leaves no other tokens in a vocabulary of {vocabulary}; choose 1 to "
                f"{vocabulary - 1}, or 0 for the whole vocabulary"
            )


class Reader(Training):
    """Contexts are read as latents, one per `tokens_per_position` tokens; 1 trains nothing and reads them as text.

    The encoder is an MLP on token embeddings. It also reads the states of a copy of the base model's first `depth` blocks (0:
    all), if `encoder` is `pretrained` or, with new weights, `scratch`. It learns to repeat and continue contexts for
    `pretrain_steps`, then to answer for `steps`.
    """

    tokens_per_position: Count
    encoder: Literal["pretrained", "scratch", "embeddings"]
    depth: Natural
    pretrain_steps: Natural

    @property
    def all_steps(self) -> int:
        """Both kinds of steps, which are one run with one warm-up and one decay."""
        return self.pretrain_steps + self.steps


class Prompt(Section):
    """Which parts of a prompt pass through the codec (`codec`) or keep their embeddings (`text`); maximum tokens per prompt.

    `bos: auto` is decided once, by `generate_data`; until then prompts are measured with BOS. `shots` worked examples come
    first and count towards `max_length`; passed as `text`, they are the same tokens before every question.
    """

    bos: Literal["auto", "text", "codec", "none"]
    prefix: Literal["text", "codec"]
    anchor: Literal["text", "codec"]
    max_length: Count
    shots: Natural
    shots_pass: Literal["text", "codec"]


class Generation(Section):
    """Maximum new tokens per answer, prompts per batch, backend for SFT records (answers always use transformers).

    Leading white space of an answer is skipped. It ends at a line break, the cue "Question:" or EOS; with `stop: sentence` also
    at the end of a sentence.
    """

    max_new_tokens: Count
    batch_size: Count
    stop: Stop
    backend: BackendName


class CriticLimits(Section):
    """Minimum `log P(good) - log P(bad)`, in nats, of an instruction and of an instruction with its answer."""

    instruction: Real
    pair: Real


class Gates(Section):
    """Number of pilot records; minimum share kept and accepted by the critic, maximum share truncated and run-on."""

    pilot: Count
    kept: Share
    critic: Share
    length_limit: Share
    runaway: Share


class Baselines(Section):
    """Number of test questions, from the first, that the rate-quality curve is measured on."""

    questions: Count


class Data(Section):
    """Questions per split and per quick evaluation; how SFT records are prompted, sampled, judged and used.

    Unanswerable questions (SQuAD v2.0) are refused, or scored with the empty answer as the right one.
    """

    train: Count
    validation: Count
    test: Count
    quick: Count
    unanswerable: Unanswerable
    few_shot_pool: Annotated[str, Field(min_length=1)]
    instruction_pool: Annotated[str, Field(min_length=1)]
    prompt_style: PromptStyle
    bos: SftBos
    sft_records: Natural
    sft_max_new_tokens: Count
    sft_temperature: NonNegative
    critic: CriticLimits
    gates: Gates
    phase2_sft_share: Share

    @property
    def sizes(self) -> dict[Literal["train", "validation", "test"], int]:
        """Questions of each split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


class Needs(Section):
    """Hardware that the base model needs, in GiB: GPU memory (0: a CPU is enough), and disk for downloads and conversions."""

    gpu_memory: NonNegative
    disk: NonNegative


class Params(Section):
    """All of `params.yaml`."""

    seed: Seed
    base_model: Place
    dataset: Annotated[Place, BeforeValidator(_renamed("embedded", "bundled"))]
    test_dataset: Place | None
    source: Annotated[str, AfterValidator(_source)]
    compress_dim: Count
    window: Count
    magnitude: Magnitude
    latent_bits: Annotated[int, Field(strict=True), AfterValidator(_bits)]
    latent_coding: LatentCoding
    adapter: Adapter
    loss: Loss
    phase1: Phase1
    phase2: Phase2
    reader: Reader
    prompt: Prompt
    generation: Generation
    baselines: Baselines
    data: Data
    needs: Needs

    def vector_dim(self, hidden_size: int) -> int:
        """Width of a flattened window, `window * hidden_size`.

        Raises:
            InputError: `compress_dim` is larger than that, or `window` than a prompt.
        """
        if self.window > self.prompt.max_length:
            raise InputError(f"window {self.window} is more than prompt.max_length {self.prompt.max_length}; lower it")
        width = self.window * hidden_size
        if self.compress_dim > width:
            raise InputError(
                f"compress_dim {self.compress_dim} is more than vector_dim {width} "
                f"(window {self.window} x hidden {hidden_size}); choose 1 to {width}"
            )
        return width

    @property
    def vocabulary_share(self) -> float:
        """`phase1.vocabulary_share`; 0 for states after a block, where a random token would change all states that follow."""
        return 0.0 if blocks_before(self.source) else self.phase1.vocabulary_share

    def check_source(self) -> None:
        """Check that states after a block are not combined with a reader.

        Raises:
            InputError: they are.
        """
        if blocks_before(self.source) and self.reader.tokens_per_position > 1:
            raise InputError(
                f"source {self.source} can't be combined with reader.tokens_per_position {self.reader.tokens_per_position}, "
                "because a reader's vectors stand in for token embeddings; set source to embeddings or "
                "reader.tokens_per_position to 1"
            )

    def check_reader(self) -> None:
        """Check that `reader.depth` is given only with an encoder that has blocks.

        Raises:
            InputError: it is not.
        """
        if self.reader.depth and self.reader.encoder == "embeddings":
            raise InputError(
                f"reader.depth {self.reader.depth} counts blocks, and reader.encoder embeddings has none; set reader.encoder to "
                "pretrained or scratch, or reader.depth to 0"
            )

    def check_length(self, positions: int | None) -> None:
        """Check that a prompt and the new tokens after it fit into the base model's `positions` (`None`: no limit).

        Raises:
            InputError: they don't.
        """
        new = max(self.generation.max_new_tokens, self.data.sft_max_new_tokens if self.data.sft_records else 0)
        if positions is not None and self.prompt.max_length + new > positions:
            left = positions - new
            fix = f"lower prompt.max_length to {left}"
            if left < 1:
                few = f"generation.max_new_tokens and data.sft_max_new_tokens below {positions}"
                fix = f"lower {few}, and then prompt.max_length"
            raise InputError(
                f"prompt.max_length {self.prompt.max_length} and {new} new tokens are more than the {positions} positions of "
                f"the base model; {fix}"
            )

    def check_shots(self) -> None:
        """Check that worked examples leave questions to train on, and that no uncoded example follows a coded BOS.

        Raises:
            InputError: one of these checks fails.
        """
        shots, prompt = self.prompt.shots, self.prompt
        if shots >= self.data.train:
            raise InputError(
                f"prompt.shots {shots} leaves no question to train on, as data.train is {self.data.train}; lower prompt.shots "
                f"to {self.data.train - 1} or less"
            )
        if shots and prompt.bos == "codec" and prompt.shots_pass == "text":
            raise InputError(
                "prompt.bos codec puts BOS through the codec, but prompt.shots_pass text keeps the examples after it out; "
                "set prompt.shots_pass to codec, or prompt.bos to text"
            )
