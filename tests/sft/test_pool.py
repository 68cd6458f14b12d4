from pathlib import Path

import pytest
from families import FAMILIES, make_tokenizer

from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError
from narrowband.sft.pool import (
    CompletionPrompts,
    FewShotExample,
    are_exact,
    encode_exactly,
    few_shot,
    formatted_text,
    read_pool,
    zero_shot,
)

ROOT = Path(__file__).parent.parent.parent
POOL = ROOT / "pools" / "few_shot.yaml"


def test_the_pool_has_enough_examples_of_every_category_and_no_role_words() -> None:
    pool = read_pool(POOL)
    assert len(pool) >= 30
    assert {example.category for example in pool} == {"math", "completion", "fact", "creative", "explanation"}
    text = " ".join(f"{example.instruction} {example.completion}" for example in pool).lower()
    assert not any(role in text for role in ("user:", "assistant", "human:", "system:", "instruction:"))


def test_few_shot_prompts_show_three_or_four_other_examples_and_end_with_the_instruction() -> None:
    pool = read_pool(POOL)
    prompts = CompletionPrompts("few_shot", pool)
    shown = [prompts.build("qa", pool[0].instruction, seed) for seed in range(50)]
    for prompt in shown:
        assert prompt.text.endswith(f"\n\n{pool[0].instruction}\n")
        assert len(prompt.examples) in (3, 4) and pool[0] not in prompt.examples
        assert all(f"\n\n{e.instruction}\n{e.completion}\n\n" in prompt.text for e in prompt.examples)
    assert len({prompt.text for prompt in shown}) > 40
    assert prompts.build("qa", "What is fog?", 3) == prompts.build("qa", "What is fog?", 3)


def test_completion_prompts_have_a_form_a_type_and_no_examples() -> None:
    prompts = CompletionPrompts("completion", read_pool(POOL))
    kinds = {"qa": "Q: {x}\nA:", "completion": "{x}", "generation": "{x}\n", "response": "Task: {x}\nAnswer:"}
    for kind, text in kinds.items():
        prompt = prompts.build(kind, "{x}", 0)
        assert prompt.text == text and prompt.examples == []


def test_an_instruction_of_several_lines_brings_its_own_cue() -> None:
    asked = "Context: Orvane is a town.\nQuestion: What is Orvane?\nAnswer:"
    example = FewShotExample("a", "b", "The opposite of hot is", "cold")
    assert zero_shot("qa", asked) == asked
    assert few_shot([example], asked).endswith("\n\nThe opposite of hot is\ncold\n\n" + asked)
    assert formatted_text("qa", asked, "a town") == asked + " a town"


def test_formatted_text_joins_the_response_where_the_form_leaves_off() -> None:
    assert formatted_text("qa", "What is fog?", "A cloud.") == "Q: What is fog?\nA: A cloud."
    assert formatted_text("completion", "Ice is", "cold") == "Ice is cold"
    assert formatted_text("generation", "Describe fog.", "Grey.") == "Describe fog.\nGrey."


def test_ids_stand_for_the_prompt_and_nothing_else(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "The capital of France is"
    assert lm.tokenizer.decode(encode_exactly(lm.tokenizer, [prompt])[0]) == prompt
    tokenizer = type(lm.tokenizer)
    plain = tokenizer.__call__
    monkeypatch.setattr(tokenizer, "__call__", lambda self, text, **options: plain(self, text))  # adds BOS
    with pytest.raises(InputError, match=r"would be fed '<\|bos\|>' instead of '' in 'The capital of France is'"):
        encode_exactly(lm.tokenizer, [prompt])


def test_only_what_a_tokenizer_changes_in_a_prompt_is_said() -> None:
    tokenizer = make_tokenizer(FAMILIES["qwen2"])
    prompts = ["What is fog?", "What is fog?\n\nWhere is the cafe\u0301?\nIn town"]
    assert are_exact(tokenizer, prompts) == [True, False]
    with pytest.raises(InputError) as refusal:
        encode_exactly(tokenizer, prompts)
    assert r"'\xe9' instead of 'e\u0301' in 'Where is the cafe" in str(refusal.value)
    assert len(str(refusal.value)) < 250 and "\n" not in str(refusal.value)


ENTRY = "{category: b, instruction: c, completion: d, id: "


@pytest.mark.parametrize(
    "content",
    [
        "3",
        "[a]",
        "[null]",
        "- {id: a}",
        "- {id: a, category: b, instruction: c, completion: d}",
        "a: [",
        "".join(f"- {ENTRY}a}}\n" for _ in range(5)),
        "".join(f"- {ENTRY}{i}}}\n" for i in range(5)),
        "".join(f"- {ENTRY}n{i}}}\n" for i in range(5)),
    ],
)
def test_a_pool_that_is_no_pool_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pool.yaml").write_text(content)
    with pytest.raises(InputError, match="few-shot pool") as refusal:
        read_pool(tmp_path / "pool.yaml")
    assert not any(word in str(refusal.value) for word in ("__", "NoneType", "mapping", "iterable"))


def test_spaces_and_line_breaks_around_a_text_are_no_part_of_it(tmp_path: Path) -> None:
    entries = "".join(
        f"- id: n{i}\n  category: b\n  instruction: |\n    Write {i}.\n  completion: ' d '\n" for i in range(5)
    )
    (tmp_path / "pool.yaml").write_text(entries)
    assert read_pool(tmp_path / "pool.yaml")[3] == FewShotExample("n3", "b", "Write 3.", "d")
