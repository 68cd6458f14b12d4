from pathlib import Path

import pytest

from narrowband.sft.backend import Continuation
from narrowband.sft.nonsense import Nonsense
from narrowband.sft.pool import FewShotExample, read_pool

POOL = read_pool(Path(__file__).parent.parent.parent / "pools" / "few_shot.yaml")
SHOWN = [example for example in POOL if example.id in ("math-01", "fact-04", "explanation-02", "completion-03")]


def fault(text: str, instruction: str, finish: str = "stop", shown: list[FewShotExample] = SHOWN) -> str | None:
    return Nonsense(POOL).fault(Continuation(text, finish), instruction, shown)


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        (" Paris\n\n", "stop", None),
        (" 7", "eos", None),
        (" Paris is a city that", "length", "length_limit"),
        ("", "eos", "empty"),
        (" ...\n\n", "stop", "empty"),
        (" Paris\nAssistant: Sure!", "eos", "delimiter"),
        (" Q: What?", "eos", "delimiter"),
        (" Paris<|eos|>", "eos", "delimiter"),
        (" caf\ufffd", "eos", "unprintable"),
        (" fog\x07 and rain", "eos", "unprintable"),
        (" fog\tand rain", "eos", "unprintable"),
        (" fog \ue000 rain", "eos", "unprintable"),
        (" می\u200cرویم دو روز", "eos", None),  # a ZWNJ
        (" क्\u200dष एक अक्षर है", "eos", None),  # a ZWJ
        (" שלום\u200f (עולם)", "eos", None),  # an RLM
        (" 雨\u3000雲から落ちる水", "eos", None),
        (" 3\xa0000 mètres", "eos", None),
        (" the cat the cat the cat the cat", "eos", "repetition"),
        (" 我喜欢猫。我喜欢猫。我喜欢猫。", "eos", "repetition"),
        (" 苹果是一种水果,香蕉是一种水果,葡萄也是一种水果。", "eos", None),
        (" 一只小猫坐在窗台上,看着窗外的小鸟,小鸟飞走了,小猫还坐在窗台上。", "eos", None),
    ],
)
def test_filler_is_rejected_with_its_reason_and_short_right_answers_are_not(
    text: str, finish: str, reason: str | None
) -> None:
    assert fault(text, "What is fog?", finish) == reason


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        ("Compute 12+8.", "12+8."),
        ("What is fog?", "What is fog? A cloud."),
        ("What is fog?", "WHAT IS FOG"),
        ("Explain in one sentence what money is.", "what money is"),
        ("Context: Fog is a cloud.\nQuestion: What is fog?\nAnswer:", "What is fog"),
    ],
)
def test_the_instructions_own_words_are_no_answer(instruction: str, text: str) -> None:
    assert fault(text, instruction) == "echo"


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        ("Compute 1*8.", "8"),  # a number of the instruction may be right
        ("Context: Fog is a cloud.\nQuestion: What is fog?\nAnswer:", "a cloud"),  # copied, as it should be
        ("The capital of France is", "Paris is the capital of France."),
        ("Tell me a fact about honey.", "Honey is sweet."),
        ("What is a mirror?", "A mirror is a glass that shows a face."),
        ("Describe a bee in a few words.", "A small bee hums among flowers."),  # one word of an example's
    ],
)
def test_answers_to_the_instruction_pass(instruction: str, text: str) -> None:
    assert fault(text, instruction) is None


@pytest.mark.parametrize(
    ("instruction", "text", "reason"),
    [
        ("Compute 12+8.", "4", "example_answer"),
        ("The capital of Spain is", "rome!", "example_answer"),
        ("The capital of Spain is", "The capital of Spain is Rome", "echo"),
        ("Name the capital of Spain.", "Rome, Spain", "example_answer"),
        ("The sun sets in the", "dark shape behind a lit object", "example_topic"),
        ("Tell me a fact about tea.", "Tea is honey that bees make.", "example_topic"),
        ("What is 1+1?", "The answer to 2+2 is 5", "example_topic"),
    ],
)
def test_what_belongs_to_an_example_is_no_answer(instruction: str, text: str, reason: str) -> None:
    assert fault(text, instruction) == reason
    assert reason == "echo" or fault(text, instruction, shown=[]) is None  # an answer unless the example was shown


CHINESE = FewShotExample("苹果", "any", "苹果是什么?", "苹果是一种红色的水果,长在树上。")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("爱吃苹果", None),  # one word of the example's, of two characters
        ("红色的水果长在树上", "example_topic"),
        ("苹果是一种红色的水果,长在树上!", "example_answer"),
        ("熊是什么", "echo"),
    ],
)
def test_what_belongs_to_an_example_is_told_in_a_script_without_spaces(text: str, reason: str | None) -> None:
    assert fault(text, "熊是什么?", shown=[CHINESE]) == reason
