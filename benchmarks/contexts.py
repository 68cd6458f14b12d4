"""`make bench-contexts`: four systems answer questions of which about five share a paragraph, read once or with each of them.

The model has the geometry of SmolLM2-135M with fewer layers and random weights: it answers nothing, and writes
`generation.max_new_tokens` tokens to each question, which is the most that a real one needs.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import HEADER, Row, interleaved
from benchmarks.results import save
from benchmarks.setting import DATA, without_zeros
from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.fitting import fit_pca
from narrowband.data.squad import Example, read_squad
from narrowband.evaluation.answer import HasIds, QuestionAnswerer, QuestionSet
from narrowband.evaluation.compare import Comparison, compare
from narrowband.lm.frozen import FrozenLM
from narrowband.pretrain.tokenizer import train_tokenizer
from narrowband.runtime.entry import console, set_up_torch
from narrowband.runtime.parameters import load_params

FILE = DATA / "xquad.en.json"
VOCABULARY = 8192
"""Entries of the tokenizer, trained on the questions: about as many tokens a word as a real one of 49,152 has."""

SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "initializer_range": 0.04,
    "tie_word_embeddings": True,
}
LAYERS = 8
"""Of 30."""

EVERY = 12
"""Contexts of the file for each one that is asked about, so that the benchmark takes minutes."""

RATIO = 4
"""Numbers of an embedding over latents, at window 1."""


class Whole(QuestionAnswerer):
    """Reads a context again with every question."""

    def alike(self, examples: Sequence[Example], prompts: Sequence[HasIds]) -> Sequence[int]:
        """A number of its own for each prompt."""
        return range(len(examples))


def random_lm(examples: Sequence[Example]) -> FrozenLM:
    """A random model, and a tokenizer trained on `examples`."""
    tokenizer = train_tokenizer((f"{one.context}\n{one.question}" for one in examples), VOCABULARY)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMOLLM2, num_hidden_layers=LAYERS))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return FrozenLM.load(folder)


def systems(asked: QuestionAnswerer, examples: Sequence[Example]) -> dict[str, Codec]:
    """PCA, and two adapters with different random weights."""
    lm, params = asked.lm, load_params().model_copy(update={"window": 1})
    params = params.model_copy(update={"compress_dim": lm.hidden_size // RATIO})
    pca = fit_pca(lm, asked.encode(examples), params.compress_dim, 1)
    config = CodecConfig.of(params)
    made = {"pca": Codec(pca, config, pca_only=True)}
    for seed, name in enumerate(("phase1", "phase2")):
        made[name] = without_zeros(Codec(pca, config, seed=seed), seed)
    return made


@contextmanager
def counting(lm: FrozenLM) -> Iterator[Callable[[], int]]:
    """How many tokens have passed through the model, padding included."""
    counts = []

    def count(module: nn.Module, arguments: tuple[object, ...], named: dict[str, Tensor | None]) -> None:
        embeddings, ids = named.get("inputs_embeds"), named.get("input_ids")
        counts.append(embeddings[..., 0].numel() if embeddings is not None else ids.numel())

    hook = lm.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield lambda: sum(counts)
    finally:
        hook.remove()


def spread(examples: Sequence[Example]) -> list[Example]:
    """The questions about one context in `EVERY`, from the first."""
    kept = set(list(dict.fromkeys(one.context for one in examples))[::EVERY])
    return [one for one in examples if one.context in kept]


def shared_contexts() -> Row:
    """Evaluation of four systems, with contexts read once and with every question."""
    examples, generation = spread(read_squad(FILE)), load_params().generation
    lm = random_lm(examples)
    setting = (lm, load_params().prompt, generation.max_new_tokens, generation.batch_size, generation.stop)
    ways = {"whole": Whole(*setting), "shared": QuestionAnswerer(*setting)}
    sent = systems(ways["whole"], examples)
    found: dict[str, Comparison] = {}
    tokens: dict[str, int] = {}

    def evaluate(name: str) -> None:
        with counting(lm) as counted:
            own = ways[name].answer(None, examples)
            found[name] = compare(ways[name], sent, own, QuestionSet(examples, 0))
        tokens[name] = counted()

    times = interleaved({name: lambda name=name: evaluate(name) for name in ways}, 1)
    return Row(
        f"evaluation of four systems on {len(examples)} questions about {len({one.context for one in examples})} contexts, "
        "each read once, against whole prompts",
        times["whole"] / times["shared"],
        2,
        True,
        times,
        {
            **{f"tokens through the model, {name}": float(count) for name, count in tokens.items()},
            "the same answers": float(found["whole"].predictions == found["shared"].predictions),
        },
        "questions themselves and new tokens are read either way",
    )


def main() -> None:
    """Measure, and write the row to `benchmarks/results.json` and `docs/performance.md`."""
    set_up_torch()
    row = shared_contexts()
    console.print(*row.cells, sep="  ", highlight=False)
    save("contexts", row.content, HEADER, [row.cells])


if __name__ == "__main__":
    main()
