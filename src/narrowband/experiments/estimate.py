"""Estimates of a run's time by stage and memory on this machine, from two timed forward passes and a few new tokens."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from narrowband.codec.adapter import Shape, make_adapter
from narrowband.codec.pca import PCA
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate, encode_prompts
from narrowband.data.splits import are_generated
from narrowband.data.squad import Example
from narrowband.diagnosis.figures import EXAMINED
from narrowband.diagnosis.replay import REPLAYED
from narrowband.evaluation.answer import SEARCHED
from narrowband.evaluation.headline import TITLES
from narrowband.lm.base_model import id_count, is_here
from narrowband.lm.device import best_device, mixed_precision, multiplies_in_bfloat16
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.split import blocks
from narrowband.lm.stop import TextEnd
from narrowband.params import InputError, Params, Reader, Training
from narrowband.reader.encoder import HIDDEN_MULT
from narrowband.runtime.entry import console, set_up_torch
from narrowband.world.names import Split

TIMED = 4
"""Prompts in a timed forward pass."""

SAMPLED_QUESTIONS = 100
"""Training questions whose prompts are sampled."""

CUE, NEW = 8, 4
"""Tokens of the short prompts that generation is timed on, and new tokens."""

REFERENCE_SYSTEMS, CODEC_SYSTEMS = 9, 8
"""Number of settings that `references` (with nothing sent) and `baselines` generate answers for, at the committed parameters."""

PER_RECORD = 2
"""Approximate number of candidates per SFT record, rejected ones included."""

ADAM = 5
"""Numbers kept for each trained weight of an adapter: itself, gradient, two moments, best value."""

FLOAT = 4
"""Bytes of a float32."""

LARGE_MODEL = 50_000_000
"""`check` times base models with at least this many weights; with smaller ones a run takes minutes."""


STAGES = (
    *("generate_data", "uncompressed", "train_phase1", "train_phase2", "train_reader"),
    *("evaluate", "references", "baselines", "diagnose"),
)
"""Stages whose time is estimated, in their order."""


class Speed(NamedTuple):
    """Seconds per token read in training and elsewhere, and per token generated; bytes kept per token for a backward pass."""

    train: float
    read: float
    write: float
    kept: float


class Asked(NamedTuple):
    """A sample of the training prompts, and the prompts of the test split."""

    train: Sequence[EncodedPrompt]
    test: Sequence[EncodedPrompt]

    @property
    def length(self) -> float:
        """Mean tokens of a training prompt."""
        return sum(len(prompt.ids) for prompt in self.train) / len(self.train)

    def padded(self, size: int) -> float:
        """The same with `size` prompts at a time padded to the longest."""
        batches = [self.train[start : start + size] for start in range(0, len(self.train), size)]
        return sum(max(len(prompt.ids) for prompt in batch) * len(batch) for batch in batches) / len(self.train)


class AdapterSize(NamedTuple):
    """Numbers of an adapter: weights that are trained, and those fitted in closed form."""

    trained: int
    fixed: int


class Estimate(NamedTuple):
    """Seconds by stage, and bytes by purpose in Phase 2 or, where the encoder is larger than the adapter, of the reader's stage."""

    seconds: dict[str, float]
    memory: dict[str, float]

    def until(self, stage: str) -> "Estimate":
        """The estimate of a run that ends with `stage`."""
        kept = STAGES[: STAGES.index(stage) + 1]
        return self._replace(seconds={name: self.seconds[name] for name in kept})


def measure(lm: FrozenLM, prompts: Sequence[EncodedPrompt], rows: int) -> Speed:
    """Time forward passes over the first of `prompts`, as in training and without, and generation of `rows` answers at a time."""
    batch = collate(prompts[:TIMED], lm.pad_id)
    tokens = batch.ids.numel()
    embeddings, mask = lm.embed(batch.ids).requires_grad_(), batch.mask.to(lm.device)
    write = _writing(lm, embeddings[:1, -CUE:].detach().expand(rows, -1, -1))
    weights = {parameter.numel() for parameter in lm.model.parameters()}  # also those of their copies in bfloat16
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.numel() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def passed(*contexts: AbstractContextManager[object]) -> float:
        began = _clock()
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            lm.logits(embeddings, mask, last=1)
        return (_clock() - began) / tokens

    train = passed(torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), mixed_precision())
    return Speed(train, passed(torch.no_grad()), write, sum(kept.values()) / tokens)


def _writing(lm: FrozenLM, cue: Float[Tensor, "rows cue hidden"]) -> float:
    """Seconds per generated token, in a batch of the given rows, after a warm-up that brings the weights into memory."""
    cue = cue if lm.batchable else cue[:1]
    prompt = {"inputs_embeds": cue.to(lm.model.dtype), "attention_mask": cue.new_ones(cue.shape[:2], dtype=torch.long)}
    going_on = TextEnd(lm.tokenizer, lambda text: False, 0)
    lm.greedy(going_on, 1, **prompt)
    began = _clock()
    tokens = lm.greedy(going_on, NEW, **prompt)
    return (_clock() - began) / tokens.numel()


def _clock() -> float:
    """Seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class _Costs:
    """The costs of the parts of a run, in seconds."""

    def __init__(self, params: Params, lm: FrozenLM, asked: Asked, speed: Speed) -> None:
        self.params, self.asked, self.speed = params, asked, speed
        self.entries = lm.embedding.weight.numel()
        self.blocks = sum(parameter.numel() for parameter in lm.model.parameters()) - self.entries
        self.adapter = adapter_size(params, lm.hidden_size)
        self.mlp, self.copied = encoder_size(params.reader, lm)

    def answers(self, prompts: Sequence[EncodedPrompt], count: int, codecs: int, plain: int = 0) -> float:
        """Answers to `count` questions like `prompts`, by `codecs` systems with a codec and `plain` ones without."""
        some = prompts[:count]
        read = sum(len(prompt.ids) for prompt in some) * self.speed.read
        write = len(some) * self.params.generation.max_new_tokens * self.speed.write
        return ((codecs + plain) * (read + write) + codecs * self._search(some)) * count / len(some)

    def searches(self, prompts: Sequence[EncodedPrompt], count: int, codecs: int) -> float:
        """Searches for the nearest tokens of `count` prompts like `prompts`, sent by `codecs` systems, without answers."""
        some = prompts[:count]
        return codecs * self._search(some) * count / len(some)

    def _search(self, prompts: Sequence[EncodedPrompt]) -> float:
        """Reading a token takes 2 operations per weight of the blocks, a nearest-token search 2 per number of the table."""
        coded = [i for prompt in prompts for i, on in zip(prompt.ids, prompt.coded, strict=True) if on]
        searched = len(set(coded)) if self.params.window == 1 else min(SEARCHED, len(coded))
        return searched * self.speed.read * self.entries / self.blocks

    def phase(self, training: Training, step: float, known: bool = False) -> float:
        """All steps, and all quick evaluations, including the one before the first step unless its result is known."""
        evaluations = (not known) + -(-training.all_steps // training.evaluate_every)
        return training.all_steps * step + evaluations * self.answers(self.asked.train, self.params.data.quick, 1)

    def phase1_step(self) -> float:
        """A step: per token 6 operations for each trained number of the adapter, 2 for each fixed one and each LM weight read."""
        passes = (3 * self.adapter.trained + self.adapter.fixed) / self.blocks
        return passes * self.params.phase1.batch_size * self.asked.length * self.speed.train

    def phase2_step(self) -> float:
        """A step: the LM's forward and backward over the padded batch, and the teacher's forward."""
        phase2 = self.params.phase2
        passes = 2 + (not phase2.teacher_top_k) + phase2.gradient_checkpointing
        return passes * phase2.batch_size * self.asked.padded(phase2.batch_size) * self.speed.train

    def reader(self) -> float:
        """All steps (teacher forward; encoder and student forward and backward, copied blocks on every token) and evaluations."""
        reader, k = self.params.reader, self.params.reader.tokens_per_position
        if k == 1:
            return 0.0
        passes = 1 + 3 * (self.copied + self.mlp / k) / self.blocks + 2 / k
        return self.phase(reader, passes * reader.batch_size * self.asked.padded(reader.batch_size) * self.speed.train)

    def records(self) -> float:
        """SFT records: candidates are generated, and read twice by the critic."""
        data = self.params.data
        one = 3 * self.asked.length * self.speed.read + data.sft_max_new_tokens * self.speed.write
        return PER_RECORD * data.sft_records * one


def estimate(params: Params, lm: FrozenLM, asked: Asked, speed: Speed) -> Estimate:
    """Estimate all stages, for prompts like those in `asked` and answers of maximum length."""
    costs, test = _Costs(params, lm, asked, speed), asked.test
    replays = len(TITLES) * params.generation.batch_size + 2 * REPLAYED  # with and without BOS
    codecs = len(TITLES) - 1
    seconds = {
        "generate_data": costs.records(),
        "uncompressed": costs.answers(test, params.data.test, 0, 1)
        + costs.answers(asked.train, params.data.quick, 0, 1),
        "train_phase1": costs.phase(params.phase1, costs.phase1_step()),
        "train_phase2": costs.phase(params.phase2, costs.phase2_step(), known=params.phase2.start == "phase1"),
        "train_reader": costs.reader(),
        "evaluate": costs.answers(test, params.data.test, codecs),
        "references": costs.answers(test, params.baselines.questions, REFERENCE_SYSTEMS),
        "baselines": costs.answers(test, params.baselines.questions, CODEC_SYSTEMS),
        "diagnose": costs.answers(test, replays, 0, 1) + costs.searches(test, EXAMINED, codecs),
    }
    rows = min(params.phase2.micro_batch or params.phase2.batch_size, params.phase2.batch_size)
    adapter, encoder = ADAM * costs.adapter.trained + costs.adapter.fixed, ADAM * (costs.mlp + costs.copied)
    memory = {
        "weights": (1 + multiplies_in_bfloat16() / 2) * sum(parameter.nbytes for parameter in lm.model.parameters()),
        "vocabulary": float(2 * id_count(lm.tokenizer) * lm.hidden_size * FLOAT),  # as it is, and normalised
        "activations": rows * max(len(prompt.ids) for prompt in asked.train) * speed.kept,
        "adapter or encoder": float(max(adapter, encoder) * FLOAT),
    }
    return Estimate(seconds, memory)


def adapter_size(params: Params, hidden: int) -> AdapterSize:
    """The size of the adapter that `params` ask for."""
    width = params.vector_dim(hidden)
    with torch.device("meta"):
        pca = PCA(
            torch.zeros(params.compress_dim, width),
            torch.zeros(width),
            torch.zeros(params.compress_dim),
            torch.zeros(1),
        )
        adapter = make_adapter(pca, Shape(params.window, hidden), params.adapter)
    fixed = sum(buffer.numel() for buffer in adapter.buffers())
    return AdapterSize(sum(parameter.numel() for parameter in adapter.parameters()), fixed)


def encoder_size(reader: Reader, lm: FrozenLM) -> tuple[int, int]:
    """Number of weights of the reader's MLP, and of the blocks that it copies; 0 and 0 without a reader."""
    if reader.tokens_per_position == 1:
        return 0, 0
    with_blocks = reader.encoder != "embeddings"
    width = (reader.tokens_per_position + with_blocks) * lm.hidden_size
    copied = blocks(lm.model)[: reader.depth or None] if with_blocks else []
    weights = sum(parameter.numel() for block in copied for parameter in block.parameters())
    return HIDDEN_MULT * width * (width + lm.hidden_size), weights


def require_stage(name: str) -> None:
    """Raise an InputError if there is no estimate for a stage called `name`."""
    if name not in STAGES:
        raise InputError(f"there is no estimate of a stage {name}; choose {', '.join(STAGES)}")


def estimate_of(params: Params, splits: Mapping[Split, Sequence[Example]]) -> Estimate:
    """Load the base model of `params` and estimate a run with the questions of `splits`, which may hold fewer than asked for.

    Bundled questions are made, so a few of them are enough.

    Raises:
        InputError: the base model can't be loaded.
    """
    lm = FrozenLM.load(params.base_model)
    train, test = (splits["train"][:SAMPLED_QUESTIONS], splits["test"])
    asked = Asked(*(encode_prompts(lm.tokenizer, examples, params.prompt) for examples in (train, test)))
    if not are_generated(params.dataset, params.test_dataset):
        params = _as_many_as_there_are(params, len(splits["validation"]), len(test))
    return estimate(params, lm, asked, measure(lm, asked.train, params.generation.batch_size))


def _as_many_as_there_are(params: Params, validation: int, test: int) -> Params:
    data = params.data.model_copy(
        update={"quick": min(params.data.quick, validation), "test": min(params.data.test, test)}
    )
    questions = min(params.baselines.questions, test)
    return params.model_copy(
        update={"data": data, "baselines": params.baselines.model_copy(update={"questions": questions})}
    )


def tell_time(params: Params, model: PreTrainedModel, splits: Mapping[Split, Sequence[Example]]) -> None:
    """Print the estimate on a CPU, if `model` (without weights) is large enough and its weights are on this machine."""
    if best_device().type == "cpu" and model.num_parameters() >= LARGE_MODEL and is_here(params.base_model):
        set_up_torch()
        console.print(sentence(estimate_of(params, splits)), soft_wrap=True, highlight=False)


def sentence(found: Estimate) -> str:
    """The estimate in one sentence."""
    stages = ", ".join(f"{stage} {in_words(seconds)}" for stage, seconds in found.seconds.items() if seconds >= 1)
    return f"on this machine a run takes about {in_words(sum(found.seconds.values()))} ({stages}) and {gib(found)} of memory"


def estimate_table(found: Estimate) -> Table:
    """Time by stage, and memory by purpose."""
    shown = Table("what", "about, on this machine")
    for stage, seconds in found.seconds.items():
        shown.add_row(stage, in_words(seconds))
    shown.add_section()
    shown.add_row("together", in_words(sum(found.seconds.values())))
    shown.add_section()
    for what, size in found.memory.items():
        shown.add_row(f"memory: {what}", f"{size / 2**30:.1f} GiB")
    shown.add_row("memory of the largest stage", gib(found))
    return shown


def gib(found: Estimate) -> str:
    """All memory of an estimate."""
    return f"{sum(found.memory.values()) / 2**30:.1f} GiB"


def in_words(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
