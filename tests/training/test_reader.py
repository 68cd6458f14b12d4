from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from families import save_family

from narrowband.data.prompts import encode_answer
from narrowband.data.settled import with_examples
from narrowband.data.splits import world_example
from narrowband.data.squad import Answer
from narrowband.lm.base_model import max_positions
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.reader.encoder import ContextEncoder, ReaderConfig
from narrowband.reader.shorten import latents
from narrowband.training.draws import Draws
from narrowband.training.losses import AnswerLogits
from narrowband.training.micro_batches import Part
from narrowband.training.reader import (
    FIRST_FRESH,
    Lessons,
    drawn_questions,
    fresh_questions,
    reader_logits,
    reader_loss,
)
from narrowband.world.names import is_held_out

CONFIG = ReaderConfig("revision", 2, "pretrained", 0)


@pytest.fixture
def lessons(lm: FrozenLM, params: Params) -> Lessons:
    return Lessons(lm.tokenizer, params.prompt, fresh_questions(0, 4), pretrain_steps=1)


def test_fresh_questions_are_new_at_every_step_and_hold_no_word_held_out() -> None:
    questions = fresh_questions(3, 4)
    found = [example for step in range(5) for example in questions(step)]
    assert found == [world_example(3, "train", FIRST_FRESH + i) for i in range(20)]
    assert not any(is_held_out(example.context) for example in found)
    assert questions(2) == questions(2)


def test_other_questions_are_drawn_each_once_an_epoch() -> None:
    examples = [world_example(0, "train", i) for i in range(6)]
    questions = drawn_questions(examples, Draws(0, 3))
    assert sorted(e.id for step in (0, 1) for e in questions(step)) == [e.id for e in examples]


def test_contexts_are_repeated_and_continued_first_and_questions_answered_after(lm: FrozenLM, lessons: Lessons) -> None:
    first, then = lessons.at(0), lessons.at(1)
    for i, (prompt, answer) in enumerate(first):
        context = f" {lessons.questions(0)[i].context}"
        if i % 2:
            assert lm.tokenizer.decode(prompt.question) == "\nContext:" and answer == prompt.context
            assert lm.tokenizer.decode(answer) == context
        else:
            assert prompt.question == [] and len(prompt.context) - len(answer) in (0, 1)
            assert lm.tokenizer.decode(prompt.context + answer) == context
    golds = [encode_answer(lm.tokenizer, example.golds[0]) for example in lessons.questions(1)]
    assert [lesson.answer for lesson in then] == golds


def test_a_context_is_repeated_as_far_as_the_model_has_positions(params: Params, tmp_path: Path) -> None:
    """The model embeds absolute positions and has no more, so a longer row would end in an IndexError."""
    lm = FrozenLM.load(str(save_family("gpt2", tmp_path, n_positions=96)))
    prompt = params.prompt.model_copy(update={"max_length": 80})
    lessons = Lessons(lm.tokenizer, prompt, fresh_questions(0, 4), 1, max_positions(lm.model))
    lengths = [len(lesson.prompt.ids) + len(lesson.answer) for lesson in lessons.at(0)]
    assert lengths[1] == lengths[3] == 96 and max(lengths) == 96
    for prompt, answer in lessons.at(0)[1::2]:
        assert answer == prompt.context[: len(answer)]
    assert reader_loss(lm, ContextEncoder(lm, CONFIG), lessons, params.loss.phase2)(0).loss.isfinite()


def test_a_long_answer_is_taught_as_far_as_the_model_has_positions(params: Params, tmp_path: Path) -> None:
    lm = FrozenLM.load(str(save_family("gpt2", tmp_path, n_positions=96)))
    prompt = params.prompt.model_copy(update={"max_length": 80})
    long = [replace(one, answers=(Answer(one.context, 0),)) for one in fresh_questions(0, 4)(0)]
    lessons = Lessons(lm.tokenizer, prompt, lambda step: long, 0, max_positions(lm.model))
    assert max(len(lesson.prompt.ids) + len(lesson.answer) for lesson in lessons.at(0)) == 96
    assert reader_loss(lm, ContextEncoder(lm, CONFIG), lessons, params.loss.phase2)(0).loss.isfinite()


@pytest.mark.parametrize(
    ("most", "expected"),
    [(2, [2] * 7), (3, [2, 2, 2, 3, 3, 3, 3]), (4, [2, 2, 2, 4, 4, 4, 4]), (8, [2, 2, 4, 4, 8, 8, 8])],
)
def test_pretraining_begins_at_two_tokens_a_position_and_doubles(
    lm: FrozenLM, params: Params, most: int, expected: list[int]
) -> None:
    lessons = Lessons(lm.tokenizer, params.prompt, fresh_questions(0, 4), pretrain_steps=6)
    assert [lessons.tokens_per_position(step, most) for step in range(7)] == expected
    without = Lessons(lm.tokenizer, params.prompt, fresh_questions(0, 4), pretrain_steps=0)
    assert without.tokens_per_position(0, most) == most


@pytest.mark.parametrize("step", [0, 1])
def test_the_loss_is_that_of_one_lesson_at_a_time_without_padding(
    step: int, lm: FrozenLM, lessons: Lessons, params: Params
) -> None:
    """Cross-entropy and KL by hand, over all answer tokens of the batch."""
    encoder = ContextEncoder(lm, CONFIG)
    torch.nn.init.normal_(encoder.leave.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    cross_entropy, kl, tokens = 0.0, 0.0, 0
    with torch.no_grad():
        for lesson in lessons.at(step):
            prompt, answer = lesson
            (vectors,) = latents(lm, encoder, [prompt])
            embed = lm.embedding
            after = embed(torch.tensor([*prompt.question, *answer], dtype=torch.long))
            read = torch.cat([embed(torch.tensor(prompt.head)), vectors, after])
            student = lm.model(inputs_embeds=read[None]).logits[0][-len(answer) - 1 : -1]
            teacher = lm.model(torch.tensor([prompt.ids + answer])).logits[0][-len(answer) - 1 : -1]
            cross_entropy += F.cross_entropy(student, torch.tensor(answer), reduction="sum").item()
            p, q = teacher.softmax(-1), student.log_softmax(-1)
            kl += (p * (teacher.log_softmax(-1) - q)).sum().item()
            tokens += len(answer)
    weights = params.loss.phase2
    whole = reader_loss(lm, encoder, lessons, weights)
    found = whole(step)
    assert found.parts["cross_entropy"] == pytest.approx(cross_entropy / tokens, rel=1e-3)
    assert found.parts["kl"] == pytest.approx(kl / tokens, rel=1e-3)
    parts = [whole(step, Part(i, 2)).loss.item() for i in range(2)]
    assert sum(parts) == pytest.approx(found.loss.item(), rel=1e-4)


def test_training_lowers_the_loss_and_leaves_the_language_model_byte_for_byte(lm: FrozenLM, params: Params) -> None:
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    lessons = Lessons(lm.tokenizer, params.prompt, lambda step: fresh_questions(0, 4)(0), 0)
    encoder = ContextEncoder(lm, CONFIG)
    loss = reader_loss(lm, encoder, lessons, params.loss.phase2)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    first = loss(0).loss.item()
    for _ in range(15):
        optimizer.zero_grad()
        loss(0).loss.backward()
        optimizer.step()
    assert loss(0).loss.item() < 0.9 * first
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_at_one_token_a_position_an_untrained_student_is_its_teacher(lm: FrozenLM, lessons: Lessons) -> None:
    encoder = ContextEncoder(lm, ReaderConfig("revision", 1, "pretrained", 0))
    logits = reader_logits(lm, encoder, lessons.at(1))
    torch.testing.assert_close(logits.student, logits.teacher, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step", [0, 1])
def test_worked_examples_are_read_once_for_all_steps(step: int, lm: FrozenLM, params: Params) -> None:
    long = params.prompt.model_copy(update={"max_length": 2000})  # the tiny model's tokens are short
    prompt = with_examples(long, [world_example(0, "train", i) for i in range(2)])
    taught = Lessons(lm.tokenizer, prompt, fresh_questions(0, 4), pretrain_steps=1).at(step)
    whole = [lesson._replace(prompt=lesson.prompt._replace(shared=0)) for lesson in taught]
    encoder = ContextEncoder(lm, ReaderConfig("revision", 2, "embeddings", 0))
    torch.nn.init.normal_(encoder.leave.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    found: list[tuple[AnswerLogits, torch.Tensor]] = []
    read: list[list[int]] = []
    for lessons in (taught, whole):
        reader_logits(lm, encoder, lessons)  # the model is tested once
        encoder.zero_grad()
        columns: list[int] = []
        hook = lm.model.register_forward_pre_hook(
            lambda module, given, named, columns=columns: columns.append(named["inputs_embeds"].shape[1]),
            with_kwargs=True,
        )
        logits = reader_logits(lm, encoder, lessons)
        hook.remove()
        logits.student.square().mean().backward()
        found.append((logits, encoder.enter.weight.grad.clone()))
        read.append(columns)
    (ours, gradient), (plain, expected) = found
    torch.testing.assert_close(ours.teacher, plain.teacher, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.student, plain.student, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    shared = taught[0].prompt.shared
    assert shared > 100 and read[0] == [n - shared for n in read[1]] and len(read[0]) == 2
