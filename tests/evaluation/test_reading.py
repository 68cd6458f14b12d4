import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from families import joining_tokenizer, save_family
from making import answerer_of
from rich.console import Console
from safetensors.torch import load, save
from test_answer import EXAMPLES as ABOUT_THREE
from test_answer import answerer as answerer_after
from test_answer import counted, in_common
from torch import Tensor

from narrowband.data.splits import world_example
from narrowband.data.squad import Answer, Example
from narrowband.evaluation.answer import QuestionAnswerer, QuestionSet
from narrowband.evaluation.compare import Comparison, with_reader
from narrowband.evaluation.headline import headline_table
from narrowband.evaluation.reading import read_answers, read_by_all
from narrowband.evaluation.stored import answer_stored, store_context
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params
from narrowband.reader.encoder import ContextEncoder, ReaderConfig
from narrowband.reader.shorten import Every, ReadRows, Shortener, latents, lay_rows, mean_pooling, shorteners
from narrowband.reader.split_prompt import Contexts, SplitPrompt, split_prompts

EXAMPLES = [world_example(0, "test", i) for i in range(5)]


@pytest.fixture
def answerer(lm: FrozenLM, params: Params) -> QuestionAnswerer:
    generation = params.generation.model_copy(update={"max_new_tokens": 4, "batch_size": 2})
    return answerer_of(lm, params.model_copy(update={"generation": generation}))


@pytest.fixture
def encoder(lm: FrozenLM) -> ContextEncoder:
    made = ContextEncoder(lm, ReaderConfig("revision", 2, "pretrained", 0))
    torch.nn.init.normal_(made.leave.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return made


def test_at_one_token_a_position_answers_are_the_models_own(answerer: QuestionAnswerer) -> None:
    read = read_answers(answerer, Every(1, mean_pooling), EXAMPLES)
    prompts = answerer.encode(EXAMPLES)
    assert list(read.predictions.values()) == [answerer.answer_ids(prompt.ids) for prompt in prompts]
    assert read.positions_ratio == 1 and read.bits_per_token == 16 * answerer.lm.hidden_size


def test_positions_and_bits_are_counted(answerer: QuestionAnswerer, encoder: ContextEncoder) -> None:
    read = read_answers(answerer, encoder, EXAMPLES)
    prompts = split_prompts(answerer.lm.tokenizer, EXAMPLES, answerer.prompt)
    vectors = sum(math.ceil(len(prompt.context) / 2) for prompt in prompts)
    tokens, around = (
        sum(len(prompt.context) for prompt in prompts),
        sum(len(prompt.head) + len(prompt.question) for prompt in prompts),
    )
    assert read.positions_ratio == pytest.approx((tokens + around) / (vectors + around))
    assert read.bits_per_token == pytest.approx(16 * answerer.lm.hidden_size * vectors / tokens)


def one_by_one(asked: QuestionAnswerer, shorten: Shortener) -> dict[str, str]:
    """Answers to questions about three contexts, with nothing shared."""
    lm, said = asked.lm, {}
    for example in ABOUT_THREE:
        prompts = split_prompts(lm.tokenizer, [example], asked.prompt)
        vectors = [one.half().float() for one in latents(lm, shorten, [prompts[0]._replace(shared=0)])]
        said[example.id] = asked.generate(*lay_rows(lm, prompts, vectors))[0].text
    return said


@pytest.mark.parametrize("name", ["reader", "mean pooling", "every k-th token", "beginning", "surprisal"])
@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("batch_size", [64, 2])
def test_answers_are_those_of_one_question_at_a_time(
    name: str, shots: int, batch_size: int, encoder: ContextEncoder, lm: FrozenLM, params: Params
) -> None:
    asked = answerer_after(lm, params, shots, batch_size=batch_size)
    system = {"reader": encoder, **shorteners(lm, 2)}[name]
    expected = one_by_one(asked, system)
    assert read_answers(asked, system, ABOUT_THREE).predictions == expected and len(set(expected.values())) > 3


def test_a_context_is_shortened_and_read_once_and_worked_examples_once_for_all(lm: FrozenLM, params: Params) -> None:
    def pooling(embeddings: Tensor, contexts: Contexts, k: int) -> Tensor:
        shortened.append(len(contexts.ids))
        return mean_pooling(embeddings, contexts, k)

    shortened: list[int] = []
    asked, shorten = answerer_after(lm, params, shots=2), Every(2, pooling)
    prompts = split_prompts(lm.tokenizer, ABOUT_THREE, asked.prompt)
    groups = [prompts[:4], prompts[4:5], prompts[5:]]
    shared, vectors = prompts[0].shared, [-(-len(prompt.context) // 2) for prompt in prompts]
    assert lm.tokenizer.decode(prompts[0].head[1:shared]) == asked.prompt.examples
    longest = max(len(prompt.head) + n + len(prompt.question) for prompt, n in zip(prompts, vectors, strict=True))
    pairs = [(prompt.question, max((one.question for one in group), key=len)) for group in groups for prompt in group]
    rest = max(len(ids) - in_common(ids, leader) for ids, leader in pairs if ids is not leader)
    read_answers(asked, shorten, ABOUT_THREE)  # the model is tested once
    shortened.clear()
    with counted(lm) as tokens:
        read_answers(asked, shorten, ABOUT_THREE)
    assert shortened == [3]
    assert tokens()[:2] == [3 * (longest - rest - shared), 7 * rest]


def test_surprisal_is_computed_once_for_each_context_after_examples_read_once(lm: FrozenLM, params: Params) -> None:
    asked = answerer_after(lm, params, shots=2)
    prompts = split_prompts(lm.tokenizer, ABOUT_THREE, asked.prompt)
    surprising, alone = shorteners(lm, 2)["surprisal"], [one._replace(shared=0) for one in prompts]
    expected = [latents(lm, surprising, [prompt])[0] for prompt in alone]
    latents(lm, surprising, prompts)  # the model is tested once
    with counted(lm) as tokens:
        found = latents(lm, surprising, prompts)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    heads = len(prompts[0].head) - prompts[0].shared
    assert tokens() == [heads + len(prompts[i].context) for i in (0, 4, 5)]


def test_the_row_of_a_reader_and_those_of_simpler_ways(answerer: QuestionAnswerer, encoder: ContextEncoder) -> None:
    own = answerer.answer(None, EXAMPLES)
    empty = Comparison({"uncompressed": {"f1": 1.0}}, {"questions": 5}, {"uncompressed": own.predictions})
    found = with_reader(empty, read_by_all(answerer, encoder, EXAMPLES), QuestionSet(EXAMPLES, 0))
    assert set(found.headline["reader"]) == {"f1", "em", "agreement", "positions_ratio", "bits_per_token"}
    assert found.details["reader"].keys() == {"f1_interval"} and found.details["questions"] == 5
    simpler = found.details["fewer_positions"]
    assert set(simpler) == {"mean pooling", "every k-th token", "beginning", "surprisal"}
    assert (
        len({row["positions_ratio"] for row in simpler.values()} | {found.headline["reader"]["positions_ratio"]}) == 1
    )
    assert found.predictions["reader"].keys() == own.predictions.keys()
    assert found.headline["uncompressed"] == {"f1": 1.0} and "reader" not in empty.headline


def test_the_table_has_a_row_for_the_reader() -> None:
    compressed = {"f1": 1.0, "em": 1.0, "agreement": 1.0, "cosine": 1.0, "norm_ratio": 1.0, "token_match": 1.0}
    headline = {
        **dict.fromkeys(("pca", "phase1", "phase2"), compressed),
        "uncompressed": {"f1": 1.0, "em": 1.0},
        "compression_ratio": 4.0,
        "bits_per_token": 64.0,
        "f1_retained": 1.0,
        "reader": {"f1": 77.7, "em": 70.0, "agreement": 80.0, "positions_ratio": 1.7, "bits_per_token": 2048.0},
    }
    console = Console(width=200)
    with console.capture() as captured:
        console.print(headline_table(headline, {"reader": {"f1_interval": {"low": 70.0, "high": 80.0}}}))
    (row,) = (line for line in captured.get().splitlines() if "Reader" in line)
    assert all(cell in row for cell in ("1.7x fewer positions", "77.7", "70.0 to 80.0", "2048"))


def test_a_stored_context_gives_the_answers_of_the_whole_prompt(
    answerer: QuestionAnswerer, encoder: ContextEncoder, tmp_path: Path
) -> None:
    whole = read_answers(answerer, encoder, EXAMPLES)
    for example in EXAMPLES:
        stored = store_context(answerer, encoder, f" {example.context}\n")
        (tmp_path / "context").write_bytes(stored.content)
        answer = answer_stored(answerer, tmp_path / "context", "revision", example.question)
        assert answer == whole.predictions[example.id]
        assert stored.vectors == -(-stored.tokens // 2) and not stored.truncated
    assert store_context(answerer, encoder, 1000 * "word ").truncated


@pytest.mark.parametrize(
    "context", ["\u4e2d\u6587 is a language.", "\u00c9lan vital is a term.", "1999 was hot.", ": it is."]
)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_context_may_begin_with_any_character(family: str, context: str, params: Params, tmp_path: Path) -> None:
    answerer = answerer_of(FrozenLM.load(str(save_family(family, tmp_path / "model"))), params)
    encoder = ContextEncoder(answerer.lm, ReaderConfig("revision", 2, "embeddings", 0))
    example = Example("a", context, "What is it?", (Answer(context[:1], 0),))
    (tmp_path / "context").write_bytes(store_context(answerer, encoder, context).content)
    whole = read_answers(answerer, encoder, [example]).predictions["a"]
    assert answer_stored(answerer, tmp_path / "context", "revision", example.question) == whole


@pytest.mark.parametrize(
    "context", ["A fox.", "\u957f\u6c5f\u5f88\u957f\u3002", "A fox (see below)", "\u0646\u0647\u0631"]
)
def test_a_context_may_end_with_any_character(
    context: str, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_family("llama", tmp_path / "model")
    joining_tokenizer().save_pretrained(folder)
    answerer = answerer_of(FrozenLM.load(str(folder)), params)
    example = Example("a", context, "What?", (Answer(context[:1], 0),))
    (whole,) = split_prompts(answerer.lm.tokenizer, [example], answerer.prompt)
    encoder = ContextEncoder(answerer.lm, ReaderConfig("revision", 2, "embeddings", 0))
    (tmp_path / "context").write_bytes(store_context(answerer, encoder, context).content)
    rows: list[SplitPrompt] = []

    def lay(lm: FrozenLM, prompts: list[SplitPrompt], vectors: list[Tensor]) -> ReadRows:
        rows.extend(prompts)
        return lay_rows(lm, prompts, vectors)

    monkeypatch.setattr("narrowband.evaluation.stored.lay_rows", lay)
    answer_stored(answerer, tmp_path / "context", "revision", "What?")
    ((head, _, question, *_),) = rows
    assert (head, question) == (whole.head, whole.question)


def test_a_question_for_which_the_model_has_too_few_positions_is_refused(params: Params, tmp_path: Path) -> None:
    lm = FrozenLM.load(str(save_family("gpt2", tmp_path / "model", n_positions=128)))
    prompt = params.prompt.model_copy(update={"max_length": 120})
    answerer = QuestionAnswerer(lm, prompt, max_new_tokens=8, batch_size=1, stop="line")
    encoder = ContextEncoder(lm, ReaderConfig("revision", 2, "embeddings", 0))
    stored = store_context(answerer, encoder, 100 * "word ")
    (tmp_path / "context").write_bytes(stored.content)
    answer_stored(answerer, tmp_path / "context", "revision", "What?")
    with pytest.raises(InputError, match="more than the 128 of the base model; shorten the question") as refusal:
        answer_stored(answerer, tmp_path / "context", "revision", 80 * "what ")
    assert "\n" not in str(refusal.value)


def headed(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a stored context."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["narrowband"]), load(content)


def test_a_file_that_is_no_stored_context_or_another_models_is_refused(
    answerer: QuestionAnswerer, encoder: ContextEncoder, tmp_path: Path
) -> None:
    file = tmp_path / "context"
    with pytest.raises(InputError, match="does not exist; name a file that narrowband encode-context wrote"):
        answer_stored(answerer, file, "revision", "What?")
    with pytest.raises(InputError, match="is a folder; name a file"):
        answer_stored(answerer, tmp_path, "revision", "What?")
    content = store_context(answerer, encoder, EXAMPLES[0].context).content
    header, vectors = headed(content)
    for kept in (
        {},
        [],
        3,
        header | {"head": [-1]},
        header | {"head": [10**6]},
        header | {"joint": [10**6]},
        header | {"reader": {}},
    ):
        file.write_bytes(save(vectors, {"narrowband": json.dumps(kept)}))
        with pytest.raises(InputError, match="is not an encoded context"):
            answer_stored(answerer, file, "revision", "What?")
    for shape in ((), (3,), (3, 7), (1, 3, 32)):
        file.write_bytes(save({"vectors": torch.zeros(shape)}, {"narrowband": json.dumps(header)}))
        with pytest.raises(InputError, match="is not an encoded context"):
            answer_stored(answerer, file, "revision", "What?")
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match="is not an encoded context"):
        answer_stored(answerer, file, "revision", "What?")
    file.write_bytes(content)
    with pytest.raises(InputError, match="base_model_revision revision, not another; encode the context again"):
        answer_stored(answerer, file, "another", "What?")
    with pytest.raises(InputError, match="must hold text"):
        store_context(answerer, encoder, " \n")
