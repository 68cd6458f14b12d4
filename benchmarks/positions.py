"""`make bench-positions`: what fewer positions save and what a training step takes; tables of `docs/positions.md`.

Times are for one question whose context is read as text, as stored vectors, or as vectors that are encoded first. They do not
depend on the weights, so the encoders are untrained.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import flops, interleaved
from benchmarks.results import save
from benchmarks.setting import base_lm
from narrowband.lm.frozen import FrozenLM
from narrowband.reader.encoder import ContextEncoder, ReaderConfig
from narrowband.reader.shorten import Shortener, latents, lay_rows
from narrowband.reader.split_prompt import SplitPrompt, split_prompt
from narrowband.runtime.entry import console, set_up_torch
from narrowband.runtime.parameters import load_params
from narrowband.training.reader import Lessons, fresh_questions, reader_loss

PAGE = Path("docs/positions.md")
LENGTHS = (128, 256, 512, 1024)
"""Tokens of the context."""

FEWER = (2, 4, 8)
"""Tokens per position."""

QUESTIONS = 8
"""Of a training step."""

REPETITIONS = 10
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


class Asked:
    """A question about a context of `tokens` tokens, with one vector for every `k`."""

    def __init__(self, lm: FrozenLM, tokens: int, k: int) -> None:
        self.lm, self.k = lm, k
        frame = split_prompt(lm.tokenizer, "It is so.", "What is it?", load_params().prompt)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(lm.tokenizer), (tokens,), generator=generator).tolist()
        self.prompt: SplitPrompt = frame._replace(context=drawn)
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


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values of all layers."""
    return sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))


@torch.no_grad()
def measure(lm: FrozenLM, tokens: int) -> list[Saved]:
    """The cost of a question about a context of `tokens` tokens, as text and at every number of tokens per position."""
    asked = {k: Asked(lm, tokens, k) for k in (1, *FEWER)}
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


def cells(saved: Saved, text: Saved) -> list[str]:
    """A row beside that of the same context as text."""
    return [
        f"{saved.tokens}",
        f"{saved.tokens_per_position}" if saved.tokens_per_position > 1 else "1 (text)",
        f"{1000 * saved.prefill:.1f} ms",
        f"{text.prefill / saved.prefill:.2f}x",
        f"{1000 * saved.first_token:.1f} ms",
        f"{text.first_token / saved.first_token:.2f}x",
        f"{text.first_token / saved.with_encoder:.2f}x",
        f"{saved.cache_bytes / 2**20:.2f} MiB",
        f"{saved.cache_bytes / text.cache_bytes:.0%}",
    ]


class Step(NamedTuple):
    """FLOPs of a training step on answers: as counted, and as the formula of `docs/positions.md` has them."""

    tokens_per_position: int
    counted: float
    formula: float


def training_step(lm: FrozenLM, k: int, questions: int = QUESTIONS) -> Step:
    """A step of `questions` questions with `k` tokens a position."""
    params = load_params()
    lessons = Lessons(lm.tokenizer, params.prompt, fresh_questions(params.seed, questions), pretrain_steps=0)
    encoder = ContextEncoder(lm, ReaderConfig("", k, "embeddings", 0))
    loss = reader_loss(lm, encoder, lessons, params.loss.phase2)
    counted = flops(lambda: loss(0).loss.backward())
    table = lm.embedding.weight
    weights = sum(p.numel() for p in lm.model.parameters() if p.ndim == 2 and p is not table)
    drawn = lessons.at(0)
    context = sum(len(prompt.context) for prompt, _ in drawn)
    text = sum(len(prompt.head) + len(prompt.question) + len(answer) - 1 for prompt, answer in drawn)
    encoding = 24 * lm.hidden_size**2 * (k + 1)
    return Step(k, counted, context * ((2 + 4 / k) * weights + encoding) + text * 6 * weights)


def main() -> None:
    """Measure everything, print the tables, and write them to `benchmarks/results.json` and the page."""
    set_up_torch()
    lm, rows, content = base_lm(), [], []
    for tokens in LENGTHS:
        found = measure(lm, tokens)
        rows += [cells(saved, found[0]) for saved in found]
        content += [saved._asdict() for saved in found]
        for row in rows[-len(found) :]:
            console.print(*row, sep="  ", highlight=False)
    save("positions", content, HEADER, rows, PAGE)
    steps = [training_step(lm, k) for k in FEWER]
    shown = [
        [f"{one.tokens_per_position}", f"{one.counted:.3g}", f"{one.formula:.3g}", f"{one.counted / one.formula:.3f}"]
        for one in steps
    ]
    save("reader_training", [one._asdict() for one in steps], STEP_HEADER, shown, PAGE)


if __name__ == "__main__":
    main()
