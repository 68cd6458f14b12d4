import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from families import metaspace_tokenizer
from sft_fakes import FakeBackend, make_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import Sampling, SeededRows
from narrowband.params import InputError
from narrowband.sft.backend import Continuation, TransformersBackend
from narrowband.sft.critic import ASK_FOR_TASK, BAD, FORM, GOOD, Critic, Reliability, require_critic
from narrowband.sft.pool import FewShotExample, encode_exactly
from narrowband.world.completions import make_document

PROMPTS = ["What is fog?\n", "The capital of France is", "Write one true sentence about the old grey sea:\n"]


def test_seeded_rows_draw_from_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    rows = SeededRows(0.5, list(range(4000)), torch.device("cpu"))
    drawn = rows(torch.empty(4000, 0, dtype=torch.long), logits.expand(4000, 3)).argmax(-1).bincount(minlength=3) / 4000
    torch.testing.assert_close(drawn, (logits / 0.5).softmax(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_row_is_continued_alike_alone_and_in_a_batch(lm: FrozenLM, temperature: float) -> None:
    backend = TransformersBackend(lm)
    sampling = Sampling(temperature, 8, ("\n\n",))
    rows = encode_exactly(lm.tokenizer, PROMPTS)
    together = backend.complete(rows, [5, 6, 7], sampling)
    assert together == [backend.complete([row], [seed], sampling)[0] for row, seed in zip(rows, [5, 6, 7], strict=True)]
    assert (backend.complete(rows, [8, 9, 10], sampling) != together) == (temperature > 0)


def test_greedy_continuations_are_those_of_argmax(lm: FrozenLM) -> None:
    ids = encode_exactly(lm.tokenizer, PROMPTS[:1])[0]
    for _ in range(6):
        ids = [*ids, int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())]
    text = (
        TransformersBackend(lm)
        .complete(encode_exactly(lm.tokenizer, PROMPTS[:1]), [0], Sampling(0.0, 6, ("\n\n",)))[0]
        .text
    )
    assert text == lm.tokenizer.decode(ids[-6:])


def test_a_stop_string_of_several_tokens_ends_a_row_and_the_limit_is_told_from_it(lm: FrozenLM) -> None:
    backend = TransformersBackend(lm)
    rows = encode_exactly(lm.tokenizer, PROMPTS)
    free = backend.complete(rows, [1, 2, 3], Sampling(1.0, 12, ("\n\n",)))
    assert {one.finish for one in free} == {"length"}
    stop = re.search("[A-Za-z ]{5}", free[1].text)[0]
    assert len(encode_exactly(lm.tokenizer, [stop])[0]) > 1
    stopped = backend.complete(rows, [1, 2, 3], Sampling(1.0, 12, (stop,)))
    assert stopped[1].finish == "stop" and free[1].text.startswith(stopped[1].text)
    assert stop in stopped[1].text and len(stopped[1].text) < len(free[1].text)
    assert stopped[0] == free[0]


def test_end_of_text_ends_a_row_and_is_not_in_its_text(stopping_model: Path) -> None:
    lm = FrozenLM.load(str(stopping_model))
    said = TransformersBackend(lm).complete(
        encode_exactly(lm.tokenizer, PROMPTS * 4), list(range(12)), Sampling(0.7, 48, ("\n\n",))
    )
    assert sum(one.finish == "eos" for one in said) > 6
    assert not any(lm.tokenizer.eos_token in one.text or lm.tokenizer.pad_token in one.text for one in said)


@pytest.fixture
def writes(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Continuation]]:
    """What a model with this tokenizer is said to have written when it wrote `rows` of tokens."""

    def read(tokenizer: PreTrainedTokenizerBase, *rows: list[int], prompt: str = "Who?\n") -> list[Continuation]:
        monkeypatch.setattr("narrowband.sft.backend.sample", lambda *given: torch.tensor(rows))
        prompts, stopped = encode_exactly(tokenizer, [prompt] * len(rows)), Sampling(0.7, 8, ("\n\n",))
        return TransformersBackend(replace(lm, tokenizer=tokenizer)).complete(prompts, [0] * len(rows), stopped)

    return read


def plain_bytes() -> PreTrainedTokenizerBase:
    """A tokenizer without any special token, whose id 0 is "!" as in GPT-2."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_without_eos_and_padding_an_ordinary_token_ends_no_row(writes: Callable[..., list[Continuation]]) -> None:
    tokenizer = plain_bytes()
    texts = ["Hi! Fog.\n\n", "Hi\n\n!!!!!!", "!!!! Fog!!", "Fog, sea!!"]
    rows = [tokenizer(text).input_ids for text in texts]
    assert rows[1][-1] == 0
    assert writes(tokenizer, *rows) == [
        Continuation(texts[0], "stop"),
        Continuation("Hi\n\n", "stop"),
        Continuation(texts[2], "length"),
        Continuation(texts[3], "length"),
    ]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["M", "ar", "a", "</s>"], "Mara"),
        (["\u2581Mar", "a", "</s>"], " Mara"),
        (["<0x0A>", "M", "ar", "a", "</s>"], "\nMara"),
        (["\u2581", "\u2581Mar", "a", "</s>"], "  Mara"),
        (["<0xE4>", "<0xBD>", "<0xA0>", "</s>"], "\u4f60"),
    ],
)
@pytest.mark.parametrize("prompt", ["Where is", "Who?\n"])
def test_a_space_that_begins_a_completion_is_kept_where_spaces_are_parts_of_words(
    tokens: list[str], text: str, prompt: str, writes: Callable[..., list[Continuation]]
) -> None:
    tokenizer = metaspace_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert writes(tokenizer, ids, prompt=prompt) == [Continuation(text, "eos")]


def test_margins_are_differences_of_log_probabilities_at_the_last_position(lm: FrozenLM, tmp_path: Path) -> None:
    model = make_model(FakeBackend(lm.tokenizer), tmp_path)
    model = replace(model, backend=TransformersBackend(lm))
    good, bad = (lm.tokenizer(text, add_special_tokens=False).input_ids[-1] for text in (GOOD, BAD))
    prompts = [f"Is {word} good (A) or bad (B)?" for word in ("fog", "an old grey sea", "7")]
    expected = []
    for prompt in prompts:
        ids = torch.tensor(encode_exactly(lm.tokenizer, [prompt]))
        scores = lm.model(ids).logits[0, -1].log_softmax(-1)
        expected.append(float(scores[good] - scores[bad]))
    assert model.margins(prompts, GOOD, BAD) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match="into several tokens"):
        model.margins(prompts, " A", " B too")


def test_a_tokenizer_without_a_token_for_each_verdict_is_refused(lm: FrozenLM) -> None:
    require_critic(lm.tokenizer)
    characters = {character: i for i, character in enumerate(sorted({*FORM, *GOOD, *BAD}))}
    uneven = Tokenizer(models.BPE({**characters, GOOD: len(characters)}, [tuple(GOOD)]))
    with pytest.raises(InputError, match=r"splits ' A' or ' B' into several tokens, .* set data.sft_records to 0"):
        require_critic(PreTrainedTokenizerFast(tokenizer_object=uneven))


def test_batches_are_sorted_by_length_and_answers_come_in_the_order_asked(lm: FrozenLM, tmp_path: Path) -> None:
    backend = FakeBackend(lm.tokenizer, lambda prompt, seed: Continuation(f"{prompt} {seed}", "eos"))
    prompts = ["word " * n + "end" for n in (9, 1, 5, 3, 7)]
    said = make_model(backend, tmp_path, batch_size=2).complete(prompts, [1, 2, 3, 4, 5], Sampling(1.0, 4, ()))
    assert [one.text for one in said] == [f"{prompt} {seed}" for prompt, seed in zip(prompts, range(1, 6), strict=True)]
    lengths = [length for batch in backend.batches for length in batch]
    assert lengths == sorted(lengths) and [len(batch) for batch in backend.batches] == [2, 2, 1]


POOL = [FewShotExample(str(i), "any", f"Task number {i}", f"answer {i}") for i in range(8)]


def test_judgements_have_the_form_that_the_bundled_model_has_read(lm: FrozenLM, tmp_path: Path) -> None:
    seen: list[str] = []
    critic = Critic(
        make_model(FakeBackend(lm.tokenizer, margin=lambda p: float(bool(seen.append(p)))), tmp_path), POOL, 0
    )
    critic.pair_margins(["What is fog?"], ["A cloud."])
    critic.instruction_margins(["What is fog?"])
    good, bad, asked = seen[0].split("\n\n")
    read = [block for i in range(60) for block in make_document(Random(i)).strip().split("\n\n") if "(A)" in block]

    def form(block: str) -> list[str]:
        return [line.split(":")[0] for line in block.split("\n")]

    assert form(good) in map(form, read) and form(bad) in map(form, read)
    assert good.endswith(" A") and bad.endswith(" B")
    assert asked == "Task: What is fog?\nAnswer: A cloud.\nIs the answer good (A) or bad (B)?"
    assert seen[1].endswith("\nAnswer: What is fog?\nIs the answer good (A) or bad (B)?")


@pytest.mark.parametrize(("knows", "expected"), [(1.0, 1.0), (0.0, 0.5), (-1.0, 0.0)])
def test_the_critics_auc_is_1_if_it_knows_chance_if_it_does_not(
    knows: float, expected: float, lm: FrozenLM, tmp_path: Path
) -> None:
    def margin(prompt: str) -> float:
        asked = prompt.split("\n\n")[-1]
        if ASK_FOR_TASK in asked:
            return knows * ("Task number" in asked)
        task, answer = asked.split("Task number ")[-1].split("\nAnswer: answer ")
        return knows * (task == answer.split("\n")[0])

    found = Critic(make_model(FakeBackend(lm.tokenizer, margin=margin), tmp_path), POOL, 0).reliability()
    assert found == Reliability(expected, expected)
    assert found.judges_pairs == found.judges_instructions == (knows == 1)
    assert ("judges instructions and answers" if knows == 1 else "judges nothing") in found.sentence


def test_log_probs_are_those_of_the_model_whatever_the_other_rows_are(lm: FrozenLM) -> None:
    rows = encode_exactly(lm.tokenizer, PROMPTS)
    for ids, found in zip(rows, TransformersBackend(lm).log_probs(rows), strict=True):
        scores = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert found == pytest.approx([float(scores[i, token]) for i, token in enumerate(ids[1:])], abs=1e-4)


def test_bos_goes_before_every_prompt_and_nothing_else_does(lm: FrozenLM, tmp_path: Path) -> None:
    fed: list[list[int]] = []

    class Spy(FakeBackend):
        def complete(self, prompts: list, *rest: object) -> list[Continuation]:
            fed.extend(prompts)
            return super().complete(prompts, *rest)

        def margins(self, prompts: list, *rest: object) -> list[float]:
            fed.extend(prompts)
            return super().margins(prompts, *rest)

    bos = lm.tokenizer.bos_token_id
    model = make_model(Spy(lm.tokenizer), tmp_path, bos=(bos,))
    model.complete(PROMPTS, [0] * len(PROMPTS), Sampling(0.0, 1, ()))
    model.margins(PROMPTS, GOOD, BAD)
    assert len(fed) == 2 * len(PROMPTS) and all(ids[0] == bos and bos not in ids[1:] for ids in fed)
    assert sorted(lm.tokenizer.decode(ids[1:]) for ids in fed[: len(PROMPTS)]) == sorted(PROMPTS)


def test_whoever_watches_is_told_how_far_a_call_is(lm: FrozenLM, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = replace(make_model(FakeBackend(lm.tokenizer), tmp_path), on_batch=lambda *at: seen.append(at))
    model.complete(["a", "b", "c", "d", "e", "f"], [0] * 6, Sampling(0.0, 1, ()))
    assert seen == [(4, 6), (6, 6)]
