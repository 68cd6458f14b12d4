import re
from random import Random

import pytest

from narrowband.world.completions import make_document, make_task
from narrowband.world.names import Split, common_values, is_held_out, name_word, split_of
from narrowband.world.passages import make_passage, relations

PASSAGES = {split: [make_passage(Random(f"{split}{i}"), split) for i in range(300)] for split in ("train", "test")}


def invented_words(split: Split) -> set[str]:
    """Words of a split's passages that are neither in a closed list nor in a statement."""
    known = " ".join(
        [form for table in relations().values() for relation in table for form in relation.says]
        + [value for values in common_values().values() for value in values]
    )
    common = set(re.findall(r"\w+", known)) | {"The", "of", "River", "She", "He", "It"}
    words = {word for passage in PASSAGES[split] for name in passage.names for word in re.findall(r"[A-Z]\w+", name)}
    return words - common


def test_names_of_the_test_split_never_occur_in_training() -> None:
    test, train = invented_words("test"), invented_words("train")
    assert len(test) > 200 and len(train) > 200
    assert all(split_of(word) == "test" for word in test)
    assert not test & train
    titles = {n for p in PASSAGES["test"] for n in p.names if n.startswith("The ") and " of " not in n}
    assert titles and not titles & {n for p in PASSAGES["train"] for n in p.names}


def test_every_answer_is_a_span_of_one_to_four_words_where_it_is_said_to_be() -> None:
    questions = [(passage, question) for passage in PASSAGES["test"] for question in passage.questions]
    assert len({question.relation for _, question in questions}) == sum(map(len, relations().values()))
    for passage, question in questions:
        end = question.answer_start + len(question.answer)
        assert passage.text[question.answer_start : end] == question.answer
        assert 1 <= len(question.answer.split()) <= 4


def test_a_question_is_asked_once_a_passage_and_has_one_answer() -> None:
    for passage in PASSAGES["test"]:
        texts = [question.text for question in passage.questions]
        assert len(texts) == len(set(texts))


def test_entities_of_a_passage_share_the_asked_relation() -> None:
    """Otherwise a model can ignore the name and still be right (docs/log.md)."""
    shared = total = 0
    for passage in PASSAGES["test"]:
        for question in passage.questions:
            others = {q.answer for q in passage.questions if q.relation == question.relation} - {question.answer}
            shared, total = shared + bool(others), total + 1
    assert shared / total > 0.8


def test_the_same_seed_gives_the_same_passage_and_another_seed_another() -> None:
    assert make_passage(Random(5), "train") == make_passage(Random(5), "train")
    assert make_passage(Random(5), "train") != make_passage(Random(6), "train")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_name_words_belong_to_their_split(split: Split) -> None:
    rng = Random(0)
    assert {split_of(name_word(rng, split)) for _ in range(200)} == {split}


def test_arithmetic_tasks_are_right() -> None:
    rng = Random(0)
    checked = 0
    for _ in range(2000):
        task = make_task(rng)
        if found := re.search(r"(\d+)([-+*])(\d+)", task.instruction):
            a, b = int(found[1]), int(found[3])
            assert int(task.completion) == {"+": a + b, "-": a - b, "*": a * b}[found[2]]
            checked += 1
    assert checked > 200


def test_documents_have_no_role_words() -> None:
    for seed in range(300):
        assert not re.search(r"user|assistant|system|human|instruction:", make_document(Random(seed)), re.IGNORECASE)


def test_statements_and_questions_have_no_held_out_word() -> None:
    """Otherwise training questions would miss a whole way to say something."""
    forms = [form for table in relations().values() for relation in table for form in relation.says + relation.asks]
    assert not any(map(is_held_out, forms))
