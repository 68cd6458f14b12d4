from dataclasses import replace

import pytest

from narrowband.data.prompts import encode_prompt
from narrowband.data.settled import with_examples
from narrowband.data.splits import world_example
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params
from narrowband.reader.split_prompt import lay_contexts, split_prompt, split_prompts

EXAMPLES = [world_example(0, "validation", i) for i in range(4)]


@pytest.mark.parametrize("bos", ["text", "codec", "none"])
@pytest.mark.parametrize("max_length", [512, 60])
def test_the_parts_make_up_the_prompt_and_the_context_is_the_one_in_the_middle(
    bos: str, max_length: int, lm: FrozenLM, params: Params
) -> None:
    prompt = params.prompt.model_copy(update={"bos": bos, "max_length": max_length})
    for example in EXAMPLES:
        parts = split_prompt(lm.tokenizer, example.context, example.question, prompt)
        assert parts.ids == encode_prompt(lm.tokenizer, example.context, example.question, prompt).ids
        head, context, question = (lm.tokenizer.decode(part, skip_special_tokens=True) for part in parts[:3])
        assert head == "Context:"
        assert f" {example.context}".startswith(context) and (max_length == 60 or context == f" {example.context}")
        assert question == f"\nQuestion: {example.question}\nAnswer:"


def test_worked_examples_stand_before_the_context(lm: FrozenLM, params: Params) -> None:
    long = params.prompt.model_copy(update={"max_length": 2000})  # the tiny model's tokens are short
    prompt = with_examples(long, EXAMPLES[1:3])
    plain = split_prompt(lm.tokenizer, EXAMPLES[0].context, EXAMPLES[0].question, long)
    parts = split_prompt(lm.tokenizer, EXAMPLES[0].context, EXAMPLES[0].question, prompt)
    assert (parts.context, parts.question) == (plain.context, plain.question)
    assert lm.tokenizer.decode(parts.head, skip_special_tokens=True) == prompt.examples + "Context:"


def test_a_prompt_that_is_left_without_a_context_is_refused_by_name(lm: FrozenLM, params: Params) -> None:
    empty, long = replace(EXAMPLES[0], context=""), replace(EXAMPLES[0], question="what " * 600)
    with pytest.raises(InputError, match=f"question {empty.id}: no token of the context fits beside a question of"):
        split_prompts(lm.tokenizer, [empty], params.prompt)
    with pytest.raises(InputError, match=f"question {long.id}: prompt.max_length 512 leaves no room for a question"):
        split_prompts(lm.tokenizer, [long], params.prompt)


def test_rows_hold_head_and_context_and_mark_the_context(lm: FrozenLM, params: Params) -> None:
    prompts = split_prompts(lm.tokenizer, EXAMPLES, params.prompt)
    rows = lay_contexts(prompts, lm.pad_id)
    for prompt, ids, coded in zip(prompts, rows.ids, rows.inside, strict=True):
        assert ids[coded].tolist() == prompt.context
        end = len(prompt.head) + len(prompt.context)
        assert ids[:end].tolist() == prompt.head + prompt.context
        assert (ids[end:] == lm.pad_id).all() and not coded[end:].any()
