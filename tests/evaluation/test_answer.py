"""Questions that share a context: it is read once, and every answer stays what it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import save_family, save_recurrent
from making import answerer_of, codec_of, streaming_codec_of
from torch import nn

from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import embedded, token_windows
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import SettledPrompt, collate, worked_examples
from narrowband.data.splits import world_example
from narrowband.data.squad import Answer, Example
from narrowband.evaluation.answer import QuestionAnswerer, batches_by_length
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import Reply
from narrowband.params import LatentCoding, Params

NEW = 8
TOLD = {
    "Ode Rusk lives in Kell, a town in the west. Mara Velt lives in Tornby, which is far from it.": [
        "Where does Ode Rusk live?",
        "Who lives in Tornby, and in which part of the country is that?",
        "Where is Kell?",
        "Who?",
    ],
    "It rains.": ["Does it rain?"],
    "Kell has 40 houses. It was founded in 1912 by Ode Rusk.": ["Who founded Kell?", "When was Kell founded?"],
}
EXAMPLES = [
    Example(f"{context[:4]} {question}", context, question, (Answer(context[:3], 0),))
    for context, questions in TOLD.items()
    for question in questions
]
ORDER = [4, 0, 5, 2, 1, 6, 3]
"""Questions about a context do not stand together in a file of several articles."""


@pytest.fixture(scope="module", params=["llama", "gemma3", "gpt2"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrozenLM:
    """Llama's positions are rotations, GPT-2's are looked up; Gemma 3 has layers that look back 16 tokens only."""
    folder = tmp_path_factory.mktemp(request.param)
    return FrozenLM.load(str(save_family(request.param, folder, tie_word_embeddings=False)))


def answerer(lm: FrozenLM, params: Params, shots: int = 0, **generation: int) -> QuestionAnswerer:
    made = answerer_of(lm, params)
    examples = worked_examples([world_example(0, "train", i) for i in range(shots)])
    prompt = SettledPrompt(**{**params.prompt.model_dump(), "bos": "text", "max_length": 600, "examples": examples})
    return replace(made, prompt=prompt, max_new_tokens=NEW, batch_size=generation.get("batch_size", 64))


class Whole(QuestionAnswerer):
    """Reads a context again with every question."""

    def alike(self, examples, prompts):
        return range(len(examples))


def whole(asked: QuestionAnswerer) -> QuestionAnswerer:
    return Whole(**vars(asked))


@contextmanager
def counted(lm: FrozenLM) -> Iterator[Callable[[], list[int]]]:
    """The tokens of each call of the model, padding included."""
    found: list[int] = []

    def count(module: nn.Module, arguments: tuple[object, ...], named: dict[str, torch.Tensor | None]) -> None:
        embeddings, ids = named.get("inputs_embeds"), named.get("input_ids")
        found.append(embeddings[..., 0].numel() if embeddings is not None else ids.numel())

    hook = lm.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield lambda: found
    finally:
        hook.remove()


def codec(lm: FrozenLM, params: Params, window: int, magnitude: str) -> Codec:
    """One with a random last layer, so that what it returns is neither the PCA's nor the original."""
    changed = params.model_copy(update={"window": window, "magnitude": magnitude, "compress_dim": 8 * window})
    prompts = answerer(lm, params).encode(EXAMPLES)
    vectors, windows = token_windows(lm, prompts, window)
    made = codec_of(PCA.fit(vectors, changed.compress_dim, windows), changed)
    nn.init.normal_(made.adapter.leave.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    if magnitude == "calibrated":
        made.calibrate(embedded(lm, prompts, 4))
    return made


def assert_alike(asked: QuestionAnswerer, system: Codec | None) -> None:
    """With and without sharing: the same answers, quality and rate."""
    examples = [EXAMPLES[i] for i in ORDER]
    found, expected = asked.answer(system, examples), whole(asked).answer(system, examples)
    assert found.predictions == expected.predictions and len(set(found.predictions.values())) > 3
    assert found.quality == pytest.approx(expected.quality, rel=1e-5)
    assert found.bits_per_token == expected.bits_per_token and found.form == expected.form


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("batch_size", [64, 3, 2, 1])
def test_answers_are_those_of_whole_prompts(family: FrozenLM, params: Params, shots: int, batch_size: int) -> None:
    assert_alike(answerer(family, params, shots, batch_size=batch_size), None)
    assert list(family.continued.values())[-1]  # it was shared, not read again


@pytest.mark.parametrize("magnitude", ["none", "token", "calibrated", "example"])
@pytest.mark.parametrize("window", [1, 4])
def test_answers_through_a_codec_are_those_of_whole_prompts(
    family: FrozenLM, params: Params, window: int, magnitude: str
) -> None:
    assert_alike(answerer(family, params), codec(family, params, window, magnitude))


MARKER = 7.0


def streaming(lm: FrozenLM, params: Params) -> Codec:
    coding = LatentCoding(kind="entropy", bits_per_token=24, step=0)
    changed = params.model_copy(update={"window": 4, "compress_dim": 32, "latent_coding": coding})
    return streaming_codec_of(lm, answerer(lm, params).encode(EXAMPLES), changed)


def test_the_model_reads_what_streams_are_decoded_to(
    lm: FrozenLM, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, codec = answerer(lm, params, batch_size=3), streaming(lm, params)
    decode, generate = Codec.decode, QuestionAnswerer.generate
    marked = 0

    def count(self: QuestionAnswerer, embeddings: torch.Tensor, *rest: object) -> list[Reply]:
        nonlocal marked
        marked += int((embeddings == MARKER).all(-1).sum())
        return generate(self, embeddings, *rest)

    monkeypatch.setattr(Codec, "decode", lambda *given: [torch.full_like(row, MARKER) for row in decode(*given)])
    monkeypatch.setattr(QuestionAnswerer, "generate", count)
    asked.answer(codec, EXAMPLES)
    assert marked == sum(sum(prompt.coded) for prompt in asked.encode(EXAMPLES))


def test_streams_are_charged_by_the_byte_and_answered_alike_in_all_batches(lm: FrozenLM, params: Params) -> None:
    codec = streaming(lm, params)
    alone, together = (answerer(lm, params, batch_size=size).answer(codec, EXAMPLES) for size in (1, 8))
    assert alone.predictions == together.predictions and len(set(alone.predictions.values())) > 3
    prompts = answerer(lm, params).encode(EXAMPLES)
    batches = [collate([prompt], lm.pad_id) for prompt in prompts]
    streams = [codec.encode(lm.embed(batch.ids), batch.coded)[0] for batch in batches]
    bits_per_token = 8 * sum(map(len, streams)) / sum(sum(prompt.coded) for prompt in prompts)
    assert alone.bits_per_token == together.bits_per_token == bits_per_token


def in_common(ids: list[int], others: list[int]) -> int:
    return next(i for i, pair in enumerate(zip(ids, others, strict=False)) if len(set(pair)) > 1)


@pytest.mark.parametrize("system", [None, "none", "token", "calibrated"])
def test_a_context_passes_through_the_model_once(lm: FrozenLM, params: Params, system: str | None) -> None:
    made = codec(lm, params, 1, system) if system else None
    asked = answerer(lm, params)
    prompts = [prompt.ids for prompt in asked.encode(EXAMPLES)]
    groups = [prompts[:4], prompts[4:5], prompts[5:]]
    # A row is read on from where it differs from the longest of its context, all rows from the first such place.
    pairs = [(ids, max(group, key=len)) for group in groups for ids in group]
    rest = max(len(ids) - in_common(ids, leader) for ids, leader in pairs if ids is not leader)
    longest = max(map(len, prompts))
    asked.answer(made, EXAMPLES)  # the model is tested once
    with counted(lm) as tokens:
        asked.answer(made, EXAMPLES)
    assert tokens()[:2] == [len(groups) * (longest - rest), len(prompts) * rest]
    with counted(lm) as tokens_of_whole:
        whole(asked).answer(made, EXAMPLES)
    assert tokens_of_whole()[0] == len(prompts) * longest > 1.5 * sum(tokens()[:2])
    assert tokens()[2:] == tokens_of_whole()[1:]


def test_worked_examples_pass_through_the_model_once_for_all_contexts(lm: FrozenLM, params: Params) -> None:
    asked, bare = answerer(lm, params, shots=2), answerer(lm, params)
    read = []
    for one in (asked, bare):
        one.answer(None, EXAMPLES)
        with counted(lm) as tokens:
            one.answer(None, EXAMPLES)
        read.append(sum(tokens()))
    assert abs(read[0] - read[1]) < len(EXAMPLES) * 4


def test_of_a_wider_window_what_lies_within_the_context_is_read_once(lm: FrozenLM, params: Params) -> None:
    asked, made = answerer(lm, params), codec(lm, params, 4, "none")
    asked.answer(made, EXAMPLES)
    with counted(lm) as tokens:
        asked.answer(made, EXAMPLES)
    with counted(lm) as tokens_of_whole:
        whole(asked).answer(made, EXAMPLES)
    assert tokens_of_whole()[0] > 1.4 * sum(tokens()[:2])


def test_a_model_that_can_not_go_on_reads_whole_prompts(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = FrozenLM.load(str(save_recurrent(tmp_path)))
    for lm in (alone, replace(alone, batchable=True)):
        asked = answerer(lm, params, batch_size=1)
        for _ in range(2):
            assert asked.answer(None, EXAMPLES).predictions == whole(asked).answer(None, EXAMPLES).predictions
        assert not any(lm.continued.values())
    assert capsys.readouterr().out.count("can't go on from what prompts share") == 1


def test_batches_keep_questions_about_a_context_together() -> None:
    prompts = [EncodedPrompt([0] * n, [True] * n, truncated=False) for n in (9, 2, 8, 3, 7, 30, 1, 1)]
    assert batches_by_length(prompts, 3) == [[6, 7, 1], [3, 4, 2], [0, 5]]
    assert batches_by_length(prompts, 3, [0, 1, 0, 1, 0, 5, 6, 7]) == [[6, 7], [1, 3], [0, 2, 4], [5]]
    assert batches_by_length(prompts, 2, [0, 1, 0, 1, 0, 5, 6, 7]) == [[6, 7], [1, 3], [0, 2], [4, 5]]
    assert batches_by_length(prompts, 1, [0] * 8) == [[i] for i in range(8)]
