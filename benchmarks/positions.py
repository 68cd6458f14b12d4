"""`make bench-positions`: what fewer positions save and what a training step takes; tables of `docs/positions.md`.

Times are for one question whose context is read as text, as stored vectors, or as vectors that are encoded first. They do not
depend on the weights, so the encoders are untrained.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import flops, in_child, interleaved, resident
from benchmarks.results import save
from benchmarks.setting import base_lm
from narrowband.lm.base_model import max_positions
from narrowband.lm.frozen import FrozenLM
from narrowband.reader.encoder import ContextEncoder, ReaderConfig
from narrowband.reader.shorten import Shortener, count, latents, lay_rows
from narrowband.reader.split_prompt import SplitPrompt, split_prompt
from narrowband.runtime.entry import console, set_up_torch
from narrowband.runtime.parameters import load_params
from narrowband.training.loop import Evaluation, Schedule, Trainer
from narrowband.training.micro_batches import PhaseLoss
from narrowband.training.reader import Lessons, fresh_questions, reader_loss

PAGE = Path("docs/positions.md")
LENGTHS = (128, 256, 512)
"""Tokens of the context, beside the most that fit as text and `LONG`."""

LONG = 2048
"""Tokens of a context that only fits as latents."""

FEWER = (2, 4, 8)
"""Tokens per position."""

QUESTIONS = 8
"""Of a training step."""

REPETITIONS = 10
MEMORY_HEADER = ["tokens a position", "weights of the encoder", "by the formula", "peak", "left for activations"]
STEP_HEADER = ["tokens a position", "FLOPs counted by torch", "by the formula", "ratio"]
HEADER = [
    *("context tokens", "tokens a position", "prefill", "its speed-up", "first token"),
    *("its speed-up", "encoder included", "key-value cache", "of that of text"),
]


class Saved(NamedTuple):
    """Seconds of prefill and to the first token, with and without the encoder, and bytes of the key-value cache."""

    tokens: int
    tokens_per_position: int
    prefill: float
    first_token: float
    with_encoder: float
    cache_bytes: int


def without_context(lm: FrozenLM) -> SplitPrompt:
    """A question whose context is still to be filled in."""
    return split_prompt(lm.tokenizer, "It is so.", "What is it?", load_params().prompt)._replace(context=[])


class Asked:
    """A question about a context of `tokens` tokens, with one vector for every `k`."""

    def __init__(self, lm: FrozenLM, tokens: int, k: int) -> None:
        self.lm, self.k = lm, k
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(lm.tokenizer), (tokens,), generator=generator).tolist()
        self.prompt = without_context(lm)._replace(context=drawn)
        self.encoder: Shortener = ContextEncoder(lm, ReaderConfig("", k, "embeddings", 0))
        self.vectors = self.encode()

    def encode(self) -> list[Tensor]:
        """The context as the model reads it: its own embeddings at one token a position."""
        if self.k == 1:
            return [self.lm.embed(torch.tensor(self.prompt.context))]
        return latents(self.lm, self.encoder, [self.prompt])

    def rows(self, vectors: list[Tensor]) -> Tensor:
        """The embeddings that the model reads."""
        return lay_rows(self.lm, [self.prompt], vectors).embeddings

    def prefill(self, embeddings: Tensor) -> Any:
        """The pass that fills the key-value cache."""
        return self.lm.model(inputs_embeds=embeddings.to(self.lm.model.dtype), use_cache=True, logits_to_keep=1)

    def first_token(self, vectors: list[Tensor]) -> int:
        """The first token of the answer."""
        return int(self.prefill(self.rows(vectors)).logits[0, -1].argmax())


def most_as_text(lm: FrozenLM) -> int:
    """Tokens of the longest context that the model has positions for, beside the question."""
    return (max_positions(lm.model) or LONG) - len(without_context(lm).ids)


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values of all layers."""
    return sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))


@torch.no_grad()
def measure(lm: FrozenLM, tokens: int) -> list[Saved]:
    """The cost of a question about a context of `tokens` tokens, as text and at every number of tokens per position that fits."""
    most = most_as_text(lm)
    asked = {k: Asked(lm, tokens, k) for k in (1, *FEWER) if count(tokens, k) <= most}
    runs: dict[tuple[int, str], Any] = {}
    for k, one in asked.items():
        runs[k, "prefill"] = partial(one.prefill, one.rows(one.vectors))
        runs[k, "first"] = partial(one.first_token, one.vectors)
        runs[k, "encoder"] = lambda one=one: one.first_token(one.encode())
    times = interleaved(runs, REPETITIONS)
    found = []
    for k, one in asked.items():
        size = cache_bytes(one.prefill(one.rows(one.vectors)).past_key_values)
        found.append(Saved(tokens, k, times[k, "prefill"], times[k, "first"], times[k, "encoder"], size))
    return found


def cells(saved: Saved, text: Saved | None) -> list[str]:
    """A row beside that of the same context as text, if that fits."""

    def speed_up(name: str, own: float) -> str:
        return f"{getattr(text, name) / own:.2f}x" if text else "-"

    return [
        f"{saved.tokens}",
        f"{saved.tokens_per_position}" if saved.tokens_per_position > 1 else "1 (text)",
        f"{1000 * saved.prefill:.1f} ms",
        speed_up("prefill", saved.prefill),
        f"{1000 * saved.first_token:.1f} ms",
        speed_up("first_token", saved.first_token),
        speed_up("first_token", saved.with_encoder),
        f"{saved.cache_bytes / 2**20:.2f} MiB",
        f"{saved.cache_bytes / text.cache_bytes:.0%}" if text else "-",
    ]


class Step(NamedTuple):
    """FLOPs of a training step on answers: as counted, and as the formula of `docs/positions.md` has them."""

    tokens_per_position: int
    counted: float
    formula: float


class Trained(NamedTuple):
    """An encoder, what it is trained on, and the loss of a step."""

    encoder: ContextEncoder
    lessons: Lessons
    loss: PhaseLoss


def trained(lm: FrozenLM, k: int, questions: int) -> Trained:
    """Training on `questions` questions a step with `k` tokens a position."""
    params = load_params()
    lessons = Lessons(lm.tokenizer, params.prompt, fresh_questions(params.seed, questions), pretrain_steps=0)
    encoder = ContextEncoder(lm, ReaderConfig("", k, "embeddings", 0))
    return Trained(encoder, lessons, reader_loss(lm, encoder, lessons, params.loss.phase2))


def training_step(lm: FrozenLM, k: int, questions: int = QUESTIONS) -> Step:
    """A step of `questions` questions with `k` tokens a position."""
    _, lessons, loss = trained(lm, k, questions)
    counted = flops(lambda: loss(0).loss.backward())
    table = lm.embedding.weight
    weights = sum(p.numel() for p in lm.model.parameters() if p.ndim == 2 and p is not table)
    drawn = lessons.at(0)
    context = sum(len(prompt.context) for prompt, _ in drawn)
    text = sum(len(prompt.head) + len(prompt.question) + len(answer) - 1 for prompt, answer in drawn)
    encoding = 24 * lm.hidden_size**2 * (k + 1)
    return Step(k, counted, context * ((2 + 4 / k) * weights + encoding) + text * 6 * weights)


class Memory(NamedTuple):
    """Weights of the encoder, and bytes that its training takes: by the formula of `docs/positions.md`, and at its peak.

    Neither counts imports, and the formula no activations.
    """

    tokens_per_position: int
    encoder_weights: float
    formula: float
    peak: float

    @property
    def cells(self) -> list[str]:
        """A row of the table."""
        mebibytes = (f"{size / 2**20:.0f} MiB" for size in (self.formula, self.peak, self.peak - self.formula))
        return [f"{self.tokens_per_position}", f"{self.encoder_weights / 1e6:.1f} million", *mebibytes]


def memory(k: int, questions: int = QUESTIONS) -> Memory:
    """Peak memory of training on `questions` questions a step with `k` tokens a position."""
    found = in_child("benchmarks.positions", "train_briefly", k, questions)
    formula = 4 * found["lm_weights"] + 20 * found["encoder_weights"]
    return Memory(k, found["encoder_weights"], formula, found["peak_bytes"] - found["imports"])


def train_briefly(k: int, questions: int) -> dict[str, float]:
    """Two steps as the stage does them, each with a checkpoint; bytes of imports, and weights of model and encoder."""
    set_up_torch()
    imports, lm = resident(), base_lm()
    encoder, _, loss = trained(lm, k, questions)
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "reader.safetensors")
        trainer = Trainer(encoder, [optimizer], Schedule(2, 0, 1), kept, "", lambda step, values: None, "reader")
        trainer.train(lambda step: [loss(step)], lambda: Evaluation(0.0, {}), seed=0)
    weights = {"lm_weights": lm.model, "encoder_weights": encoder}
    return {"imports": imports, **{name: sum(p.numel() for p in of.parameters()) for name, of in weights.items()}}


def measure_lengths(lm: FrozenLM) -> None:
    """Measure questions about contexts of every length, and write the table."""
    rows, content = [], []
    for tokens in (*LENGTHS, most_as_text(lm), LONG):
        found = measure(lm, tokens)
        text = found[0] if found[0].tokens_per_position == 1 else None
        rows += [cells(saved, text) for saved in found]
        content += [saved._asdict() for saved in found]
        for row in rows[-len(found) :]:
            console.print(*row, sep="  ", highlight=False)
    save("positions", content, HEADER, rows, PAGE)


def main() -> None:
    """Measure everything, print the tables, and write them to `benchmarks/results.json` and the page."""
    set_up_torch()
    lm = base_lm()
    measure_lengths(lm)
    steps = [training_step(lm, k) for k in FEWER]
    shown = [
        [f"{one.tokens_per_position}", f"{one.counted:.3g}", f"{one.formula:.3g}", f"{one.counted / one.formula:.3f}"]
        for one in steps
    ]
    save("reader_training", [one._asdict() for one in steps], STEP_HEADER, shown, PAGE)
    taken = [memory(k) for k in FEWER]
    save("reader_memory", [one._asdict() for one in taken], MEMORY_HEADER, [one.cells for one in taken], PAGE)


if __name__ == "__main__":
    main()
