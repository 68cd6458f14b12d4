from collections import Counter
from pathlib import Path

import pytest

from narrowband.params import InputError
from narrowband.sft.backend import Continuation
from narrowband.sft.instructions import (
    Instruction,
    Supply,
    list_prompt,
    read_instructions,
    read_list,
    shuffled,
    well_formed,
)
from narrowband.sft.pool import read_pool

ROOT = Path(__file__).parent.parent.parent


def of(text: str, asked_by: str = "pool") -> Instruction:
    return Instruction(text, "any", asked_by)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("What is fog?", "qa"),
        ("Context: a\nQuestion: b\nAnswer:", "qa"),
        ("Write a short sentence about winter:", "generation"),
        ("Describe autumn in a few words.", "generation"),
        ("Explain rain.", "response"),
        ("Compute 3*4.", "response"),
        ("The capital of Italy is", "completion"),
        ("7+5 =", "completion"),
        ("Here is a fact about dogs:", "completion"),
        ("雨是什么\uff1f", "qa"),
        ("ما هو المطر؟", "qa"),
        ("写一首关于春天的诗。", "response"),
        ("वर्षा के बारे में लिखो।", "response"),
        ("意大利的首都是", "completion"),
    ],
)
def test_an_instruction_is_of_the_type_of_its_form(text: str, kind: str) -> None:
    assert of(text).kind == kind


def test_the_pool_holds_all_types_and_no_instruction_twice() -> None:
    instructions = read_instructions(ROOT / "pools" / "instructions.yaml")
    assert len({one.text for one in instructions}) == len(instructions) > 1000
    counts = Counter(one.kind for one in instructions)
    assert min(counts[kind] for kind in ("qa", "completion", "generation", "response")) >= 100


@pytest.mark.parametrize("content", ["3", "a: [", "- {category: a}", "- {category: a, forms: [b], topics: [2]}", "[a]"])
def test_an_instruction_pool_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pool.yaml").write_text(content)
    with pytest.raises(InputError, match="instruction pool") as refusal:
        read_instructions(tmp_path / "pool.yaml")
    assert "\n" not in str(refusal.value)


def test_a_block_of_text_in_a_pool_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(
        "- category: a\n  topics: [rain]\n  forms:\n    - |\n      Write about {topic}.\n"
    )
    assert read_instructions(tmp_path / "pool.yaml") == [Instruction("Write about rain.", "a", "pool")]


def test_a_numbered_list_is_read_as_far_as_it_is_one() -> None:
    prompt = list_prompt(read_pool(ROOT / "pools" / "few_shot.yaml"), 0)
    assert prompt.startswith("1. ") and prompt.endswith("\n4.") and prompt.count("\n") == 3
    text = " What is fog?\n5. Explain rain. \n6. Compute 3*4.\n"
    assert read_list(Continuation(text, "eos")) == ["What is fog?", "Explain rain.", "Compute 3*4."]
    assert read_list(Continuation(text[:-8], "length")) == ["What is fog?", "Explain rain."]
    assert read_list(Continuation(text + "7", "length")) == ["What is fog?", "Explain rain.", "Compute 3*4."]
    assert read_list(Continuation(" What is fog?\n7. Explain rain.", "eos")) == ["What is fog?"]
    assert read_list(Continuation("\n\n", "stop")) == []


@pytest.mark.parametrize(
    "numbers", [("5.", "6."), ("5。", "6、"), ("\uff15\uff0e", "\uff16\uff0e\u3000"), ("\u0665.", "٦۔ "), ("५.", "६. ")]
)
def test_a_list_may_be_numbered_in_other_digits(numbers: tuple[str, str]) -> None:
    text = f" 雨是什么?\n{numbers[0]}解释雪。\n{numbers[1]}写诗。\n7.0 a\n9. b"
    assert read_list(Continuation(text, "eos")) == ["雨是什么?", "解释雪。", "写诗。", "0 a"]


def test_what_can_be_no_instruction_is_malformed() -> None:
    assert well_formed("7+5 =") and well_formed("What is fog?")
    assert not any(map(well_formed, ("Fog", "It's", "= ?", "Q: What is fog?", "What is \ufffd\x00?", "word " * 41)))
    assert all(map(well_formed, ("写一首关于春天的诗。", "می\u200cرویم دو روز", "雨とは\u3000何ですか", "ฝนคืออะไร")))
    assert not any(map(well_formed, ("水", "雨" * 41, "写一首\ue000诗。")))


def test_types_are_balanced_as_far_as_there_are_any_and_sources_take_turns() -> None:
    supply = Supply()
    supply.add([of(f"What is {i}?") for i in range(9)] + [of(f"Explain {i}.") for i in range(2)])
    supply.add([of(f"Is it {i}?", "reading") for i in range(9)])
    taken = supply.take(Counter({"qa": 1}), 8)
    assert Counter(one.kind for one in taken) == {"qa": 6, "response": 2}
    assert [one.asked_by for one in taken if one.kind == "qa"] == ["pool", "reading"] * 3
    assert [one.kind for one in taken[:2]] == ["response", "qa"]
    assert len(supply.take(Counter(), 100)) == 20 - 8 and supply.take(Counter(), 1) == []


def test_no_text_is_handed_out_twice() -> None:
    supply = Supply()
    assert supply.add([of("What is fog?"), of("what  is FOG?", "model")]) == 2
    assert len(supply.take(Counter(), 5)) == 1 and supply.duplicates == 1
    assert supply.add([of("What is fog?")]) == 0 and supply.duplicates == 2


def test_shuffling_mixes_categories_and_repeats_with_the_seed() -> None:
    pool = [Instruction(f"{category}{i}", category, "pool") for category in "ab" for i in range(20)]
    mixed = shuffled(pool, 3)
    assert sorted(mixed) == sorted(pool) and mixed == shuffled(pool, 3) != shuffled(pool, 4)
    assert [one.category for one in mixed[:4]] in (list("abab"), list("baba"))
