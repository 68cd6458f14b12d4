from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
from scipy.stats import binom
from sft_fakes import FakeBackend, make_model
from transformers import AddedToken, PreTrainedTokenizerBase

from narrowband.lm.base_model import load_tokenizer
from narrowband.lm.frozen import FrozenLM
from narrowband.sft.backend import Continuation
from narrowband.sft.pool import FewShotExample, read_pool
from narrowband.sft.sentinels import ENDED, ORDERS, Examination, ask_sentinels, end_ids

ROOT = Path(__file__).parent.parent.parent
POOL = read_pool(ROOT / "pools" / "few_shot.yaml")


@pytest.fixture
def probe(lm: FrozenLM, tmp_path: Path) -> Callable[..., Examination]:
    def run(
        obeys: bool = False,
        reads: bool = True,
        ended: float = 0.001,
        opening: str = "",
        tokenizer: PreTrainedTokenizerBase = lm.tokenizer,
    ) -> Examination:
        ends = {tokenizer.decode([i]) for i in end_ids(tokenizer)}

        def log_prob(before: str, token: str) -> float:
            if token in ends:
                return log(ended / len(ends))
            own = any(before.startswith(f"{e.instruction}\n") and before + token in _text(e) for e in POOL)
            return -1.0 if own and reads else -2.0

        def reply(prompt: str, seed: int) -> Continuation:
            return Continuation(opening + (ORDERS[prompt][0].upper() + "." if obeys else "1. Reply with"), "eos")

        return ask_sentinels(make_model(FakeBackend(tokenizer, reply, log_prob=log_prob), tmp_path), POOL)

    return run


def _text(example: FewShotExample) -> str:
    return f"{example.instruction}\n{example.completion}"


def test_a_model_that_reads_and_neither_obeys_nor_ends_is_a_base_model(probe: Callable[..., Examination]) -> None:
    found = probe()
    assert (found.kind, found.continued, found.answered, found.marks) == ("base", 1, 0, [])
    assert found.ended == pytest.approx(0.001)
    assert "is a base model: 100% of the pool" in found.sentence and "0.001 (limit 0.03)" in found.sentence
    assert "says little" not in found.sentence


@pytest.mark.parametrize(
    ("behaviour", "sign"),
    [
        ({"obeys": True}, "it answers 100% of bare orders"),
        ({"obeys": True, "opening": "\n\n"}, "it answers 100% of bare orders"),
        ({"opening": "Sure! "}, "it answers 100% of bare orders"),
        ({"ended": ENDED + 0.001}, "ends the text after an answer with probability 0.031"),
    ],
)
def test_each_sign_of_instruction_tuning_is_enough_and_is_named(
    behaviour: dict, sign: str, probe: Callable[..., Examination]
) -> None:
    found = probe(**behaviour)
    assert found.kind == "instruction-tuned" and len(found.against) == 1 and sign in found.sentence


def test_chat_delimiters_of_the_tokenizer_are_a_sign_and_end_turns(
    tiny_model: Path, probe: Callable[..., Examination]
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    assert end_ids(tokenizer) == [tokenizer.eos_token_id]
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True)])
    assert len(end_ids(tokenizer)) == 2
    assert probe(ended=0.02, tokenizer=tokenizer).ended == pytest.approx(0.02)  # of both ends together
    tokenizer.eos_token = "<|im_end|>"
    found = probe(tokenizer=tokenizer)
    assert found.kind == "instruction-tuned" and "its EOS <|im_end|> is a chat delimiter" in found.sentence


def test_a_model_whose_predictions_do_not_depend_on_the_text_is_no_base_model(
    probe: Callable[..., Examination],
) -> None:
    found = probe(reads=False)
    assert found.kind == "unreadable" and found.continued == 0 and "check data.bos" in found.sentence


def test_english_orders_say_little_beside_a_pool_in_another_script(lm: FrozenLM, tmp_path: Path) -> None:
    pool = [FewShotExample(str(i), "any", f"{i} 是什么?", f"一个数 {i}") for i in range(8)]
    model = make_model(FakeBackend(lm.tokenizer), tmp_path)
    found = ask_sentinels(model, pool)._replace(continued=1.0, ended=0.0)
    assert found.kind == "base" and "0% of bare orders (limit 50%), which says little" in found.sentence
    obedient = found._replace(answered=1.0)
    assert obedient.kind == "instruction-tuned" and "says little" not in obedient.sentence


def test_chance_is_what_coin_tosses_pass_once_in_twenty_times_at_most(probe: Callable[..., Examination]) -> None:
    heads = round(probe().chance * len(POOL))
    assert binom.sf(heads, len(POOL), 0.5) <= 0.05 < binom.sf(heads - 1, len(POOL), 0.5)


def test_a_word_that_only_begins_alike_is_no_obedience(lm: FrozenLM, tmp_path: Path) -> None:
    backend = FakeBackend(lm.tokenizer, lambda prompt, seed: Continuation("77 men sat down, yesterday", "eos"))
    assert ask_sentinels(make_model(backend, tmp_path), POOL).answered == 0
