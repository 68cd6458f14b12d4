"""A backend whose replies a test writes, and a run on it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerBase

from narrowband.data.splits import world_example
from narrowband.params import Params
from narrowband.sft.backend import Continuation, Sampling
from narrowband.sft.filters import Contamination
from narrowband.sft.instructions import read_instructions, reading
from narrowband.sft.journal import Journal
from narrowband.sft.model import PlainModel
from narrowband.sft.prompts import read_pool
from narrowband.sft.run import Run, Sources
from narrowband.world.names import name_word

ROOT = Path(__file__).parent.parent.parent
Reply = Callable[[str, int], Continuation]


def distinct_reply(prompt: str, seed: int) -> Continuation:
    """A list of two new instructions, or three made-up words: always well formed and never the same."""
    rng = Random(seed)
    made_up = [name_word(rng, "train") for _ in range(3)]
    if prompt.endswith("\n4."):
        return Continuation(f" What is {made_up[0]}?\n5. Describe {made_up[1]} in a few words.\n\n", "stop")
    return Continuation(" ".join(made_up) + "\n\n", "stop")


class FakeBackend:
    """Replies by a function of prompt and seed; every margin is that of `margin`; remembers what it was fed."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        reply: Reply = distinct_reply,
        margin: Callable[[str], float] = lambda prompt: 1.0,
    ) -> None:
        self.tokenizer, self.reply, self.margin = tokenizer, reply, margin
        self.fed: list[str] = []
        self.batches: list[list[int]] = []

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        texts = [self.tokenizer.decode(ids) for ids in prompts]
        self.fed += texts
        self.batches.append([len(ids) for ids in prompts])
        return [self.reply(text, seed) for text, seed in zip(texts, seeds, strict=True)]

    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        return [self.margin(self.tokenizer.decode(ids)) for ids in prompts]


def small(params: Params, **data: object) -> Params:
    """The committed parameters with 12 records, small batches and no gates."""
    gates = params.data.gates.model_copy(
        update={"pilot": 4, "kept": 0.0, "critic": 0.0, "length_limit": 1.0, "runaway": 1.0}
    )
    critic = params.data.critic.model_copy(update={"instruction": -100.0, "pair": -100.0})
    generation = params.generation.model_copy(update={"batch_size": 4})
    changes = {"sft_records": 12, "gates": gates, "critic": critic, **data}
    return params.model_copy(update={"generation": generation, "data": params.data.model_copy(update=changes)})


def make_model(backend: FakeBackend, folder: Path, batch_size: int = 4) -> PlainModel:
    return PlainModel(backend, backend.tokenizer, Journal(folder / "journal.jsonl", "test"), batch_size)


def make_run(backend: FakeBackend, params: Params, folder: Path) -> Run:
    pool = read_pool(ROOT / params.data.few_shot_pool)
    sources = Sources(
        pool,
        read_instructions(ROOT / params.data.instruction_pool),
        reading(world_example(0, "train", i) for i in range(40)),
        Contamination(world_example(0, "test", i) for i in range(20)),
    )
    return Run(make_model(backend, folder, params.generation.batch_size), params, sources, {"backend": "fake"})


def written(run: Run, folder: Path) -> tuple[Path, Path]:
    """Files of kept and rejected records."""
    folder.mkdir(exist_ok=True)
    train, rejected = folder / "train.jsonl", folder / "rejected.jsonl"
    with train.open("w") as kept_file, rejected.open("w") as rejected_file:
        run.write(kept_file, rejected_file, lambda n: None)
    return train, rejected
