from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from narrowband.lm.base_model import load_tokenizer
from narrowband.lm.bos import GAIN, TEXTS, TOKENS, choose_bos, compare_bos, is_chat_delimiter, measure_bos
from narrowband.lm.frozen import FrozenLM

SENTENCES = ["The capital of France is Paris.", "Snow is made of small crystals of ice."]


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_model))


class Scorer:
    """Gives every token -3 nats, and `gain` more where the row begins with BOS; remembers its rows."""

    def __init__(self, bos: int, gain: float) -> None:
        self.bos, self.gain = bos, gain
        self.rows: list[list[int]] = []

    def __call__(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        self.rows += [list(ids) for ids in rows]
        return [[-3 + self.gain * (ids[0] == self.bos)] * (len(ids) - 1) for ids in rows]


@pytest.mark.parametrize(
    ("gain", "added"), [(4.0, True), (GAIN, True), (GAIN - 1e-4, False), (0.0, False), (-1.0, False)]
)
def test_bos_is_added_if_the_texts_are_likelier_with_it(
    gain: float, added: bool, tokenizer: PreTrainedTokenizerBase
) -> None:
    choice = measure_bos(tokenizer, SENTENCES, Scorer(tokenizer.bos_token_id, gain))
    assert (choice.added, choice.with_bos, choice.without_bos) == (added, pytest.approx(gain - 3), -3)
    assert f"{gain:+.4f} nats per token" in choice.reason


@pytest.mark.parametrize(("gain", "added"), [(4.0, True), (0.0, True), (-GAIN, True), (-GAIN - 1e-4, False)])
def test_bos_stays_before_questions_unless_it_costs(
    gain: float, added: bool, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = tokenizer(SENTENCES, add_special_tokens=False).input_ids
    choice = compare_bos(tokenizer, rows, Scorer(tokenizer.bos_token_id, gain), least=-GAIN)
    assert choice.added == added and f"{gain:+.4f} nats per token; it is added from -0.01" in choice.reason


def test_the_same_tokens_are_scored_with_and_without_bos(lm: FrozenLM) -> None:
    ids = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in SENTENCES]
    means = []
    for bos in ([lm.tokenizer.bos_token_id], []):
        scores = [lm.model(torch.tensor([bos + row])).logits[0].log_softmax(-1) for row in ids]
        of_tokens = [
            float(score[len(bos) + i, row[i + 1]])
            for score, row in zip(scores, ids, strict=True)
            for i in range(len(row) - 1)
        ]
        means.append(sum(of_tokens) / len(of_tokens))
    choice = choose_bos(lm, ids)
    assert [choice.with_bos, choice.without_bos] == pytest.approx(means, abs=1e-3)
    assert choice == choose_bos(lm, ids)


def test_a_chat_delimiter_is_never_added(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    tokenizer.bos_token = "<|im_start|>"
    choice = measure_bos(tokenizer, SENTENCES, Scorer(tokenizer.bos_token_id, 4.0))
    assert not choice.added and choice.with_bos == 1 and "chat delimiter" in choice.reason


def test_without_bos_or_texts_there_is_nothing_to_measure(tokenizer: PreTrainedTokenizerBase) -> None:
    scorer = Scorer(tokenizer.bos_token_id, 4.0)
    assert measure_bos(tokenizer, [], scorer)[:3] == (False, None, None)
    tokenizer.bos_token = None
    assert measure_bos(tokenizer, SENTENCES, scorer)[:3] == (False, None, None) and scorer.rows == []


def test_the_beginnings_of_a_few_of_many_texts_are_enough(tokenizer: PreTrainedTokenizerBase) -> None:
    scorer = Scorer(tokenizer.bos_token_id, 0.0)
    measure_bos(tokenizer, [f"{i} " + "word " * 99 for i in range(1000)], scorer)
    assert len(scorer.rows) == 2 * TEXTS and max(map(len, scorer.rows)) == TOKENS + 1
    texts = [tokenizer.decode(ids) for ids in scorer.rows[TEXTS:]]
    assert texts[0].startswith("0 ") and int(texts[-1].split()[0]) > 900


@pytest.mark.parametrize(
    ("token", "is_one"),
    [
        ("<|im_start|>", True),
        ("<start_of_turn>", True),
        ("<|START_OF_TURN_TOKEN|>", True),
        ("<|start_header_id|>", True),
        ("<|eot_id|>", True),
        ("[INST]", True),
        ("<|assistant|>", True),
        ("<bos>", False),
        ("<s>", False),
        ("<|begin_of_text|>", False),
        ("<|endoftext|>", False),
        ("[BOS]", False),
        ("<return>", False),
        ("<h2>", False),
        ("chat", False),
    ],
)
def test_chat_delimiters_are_told_from_other_tokens_by_name(token: str, is_one: bool) -> None:
    assert is_chat_delimiter(token) == is_one
