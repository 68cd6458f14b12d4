"""A backend whose replies a test writes, and a run on it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerBase

from narrowband.data.splits import world_example
from narrowband.lm.sampling import Sampling
from narrowband.params import Params
from narrowband.sft.backend import Continuation
from narrowband.sft.critic import Reliability
from narrowband.sft.journal import Journal
from narrowband.sft.model import Limits, PlainModel
from narrowband.sft.rounds import Inputs, SftRun, read_inputs
from narrowband.world.names import name_word

ROOT = Path(__file__).parent.parent
Reply = Callable[[str, int], Continuation]


def distinct_reply(prompt: str, seed: int) -> Continuation:
    """A list of two new instructions, or three made-up words: always well formed and never the same."""
    rng = Random(seed)
    made_up = [name_word(rng, "train") for _ in range(3)]
    if prompt.endswith("\n4."):
        return Continuation(f" What is {made_up[0]}?\n5. Describe {made_up[1]} in a few words.\n\n", "stop")
    return Continuation(" ".join(made_up) + "\n\n", "stop")


class FakeBackend:
    """Replies, margins and log-probabilities are functions that a test writes; remembers what it was fed."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        reply: Reply = distinct_reply,
        margin: Callable[[str], float] = lambda prompt: 1.0,
        log_prob: Callable[[str, str], float] = lambda before, token: -1.0,
    ) -> None:
        self.tokenizer, self.reply, self.margin, self.log_prob = tokenizer, reply, margin, log_prob
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

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        text = self.tokenizer.decode
        return [[self.log_prob(text(ids[:i]), text(ids[i])) for i in range(1, len(ids))] for ids in rows]


def small(params: Params, **data: object) -> Params:
    """The committed parameters with 12 records, small batches and no gates."""
    gates = params.data.gates.model_copy(
        update={"pilot": 4, "kept": 0.0, "critic": 0.0, "length_limit": 1.0, "runaway": 1.0}
    )
    critic = params.data.critic.model_copy(update={"instruction": -100.0, "pair": -100.0})
    generation = params.generation.model_copy(update={"batch_size": 4})
    changes = {"sft_records": 12, "gates": gates, "critic": critic, **data}
    return params.model_copy(update={"generation": generation, "data": params.data.model_copy(update=changes)})


def make_model(
    backend: FakeBackend, folder: Path, batch_size: int = 4, max_length: int = 512, bos: tuple[int, ...] = ()
) -> PlainModel:
    journal = Journal(folder / "journal.jsonl", "test")
    return PlainModel(backend, backend.tokenizer, journal, Limits(batch_size, max_length), bos)


def make_inputs(params: Params) -> Inputs:
    pools = {name: str(ROOT / getattr(params.data, name)) for name in ("few_shot_pool", "instruction_pool")}
    readings, test = ([world_example(0, split, i) for i in range(n)] for split, n in (("train", 40), ("test", 20)))
    return read_inputs(params.data.model_copy(update=pools), readings, test)


def make_run(backend: FakeBackend, params: Params, folder: Path) -> SftRun:
    model = make_model(backend, folder, params.generation.batch_size, params.prompt.max_length)
    run = SftRun(model, params.data, params.seed, make_inputs(params), {"backend": "fake"})
    run.reliability = Reliability(1.0, 1.0)  # a critic that may decide
    return run


def written(run: SftRun, folder: Path) -> tuple[Path, Path]:
    """Files of kept and rejected records."""
    folder.mkdir(exist_ok=True)
    train, rejected = folder / "train.jsonl", folder / "rejected.jsonl"
    with train.open("w") as kept_file, rejected.open("w") as rejected_file:
        run.write(kept_file, rejected_file, lambda n: None)
    return train, rejected
