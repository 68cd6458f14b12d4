from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from making import codec_of, phase1_loss_of, phase2_loss_of

from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import encode_answer, encode_prompt
from narrowband.data.splits import world_example
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.split import blocks
from narrowband.params import InputError, Params
from narrowband.runtime import distributed
from narrowband.training import phase1, phase2
from narrowband.training.micro_batches import WHOLE, Part, PhaseLoss, own_parts
from narrowband.training.phase2 import Lesson


@pytest.fixture
def small(params: Params) -> Params:
    few = {"batch_size": 5, "steps": 4}
    phases = {name: getattr(params, name).model_copy(update=few) for name in ("phase1", "phase2")}
    return params.model_copy(update={"compress_dim": 8, "window": 2, **phases})


def with_phase2(params: Params, **changes: object) -> Params:
    return params.model_copy(update={"phase2": params.phase2.model_copy(update=changes)})


@pytest.fixture
def lessons(lm: FrozenLM, small: Params) -> list[Lesson]:
    """Answers of many lengths, as a share of the rows is not then a share of the tokens."""
    examples = [world_example(0, "train", i) for i in range(12)]
    return [
        Lesson(
            encode_prompt(lm.tokenizer, e.context, e.question, small.prompt),
            encode_answer(lm.tokenizer, e.golds[0] * (1 + i % 3)),
        )
        for i, e in enumerate(examples)
    ]


def make_codec(lm: FrozenLM, params: Params) -> Codec:
    vectors = torch.randn(200, params.window * lm.hidden_size, generator=torch.Generator().manual_seed(0))
    codec = codec_of(PCA.fit(vectors, params.compress_dim), params)
    torch.nn.init.normal_(codec.adapter.leave.weight, generator=torch.Generator().manual_seed(1))
    return codec


def gradient(codec: Codec, loss: PhaseLoss, parts: list[Part]) -> tuple[dict[str, float], torch.Tensor]:
    """What the parts log, added up, and the gradient of the sum of their losses."""
    codec.zero_grad()
    values: dict[str, float] = {}
    for part in parts:
        found = loss(1, part)
        found.loss.backward()
        for name, value in {"loss": found.loss.item(), **found.parts}.items():
            values[name] = values.get(name, 0.0) + value
    return values, torch.cat([p.grad.flatten() for p in codec.parameters() if p.grad is not None])


def with_vocabulary(params: Params, share: float, window: int = 2) -> Params:
    phase1 = params.phase1.model_copy(update={"vocabulary_share": share})
    return params.model_copy(update={"phase1": phase1, "window": window})


@pytest.mark.parametrize(("phase", "share", "window"), [(1, 0.0, 2), (1, 0.5, 2), (1, 0.5, 1), (2, 0.0, 2)])
def test_losses_and_gradients_of_parts_add_up_to_those_of_the_batch(
    phase: int, share: float, window: int, lm: FrozenLM, lessons: list[Lesson], small: Params
) -> None:
    small = with_vocabulary(small, share, window)
    codec = make_codec(lm, small)
    prompts = [lesson.prompt for lesson in lessons]
    loss = phase1_loss_of(lm, codec, prompts, small) if phase == 1 else phase2_loss_of(lm, codec, lessons, small)
    values, expected = gradient(codec, loss, [WHOLE])
    for size in (1, 2, 3):
        parts = list(own_parts(5, size))
        assert all(1 <= len(part.of(range(5))) <= size for part in parts)
        found, summed = gradient(codec, loss, parts)
        assert found == pytest.approx(values, rel=1e-4)
        torch.testing.assert_close(summed, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("phase", [1, 2])
def test_parts_add_up_for_states_after_a_block_too(
    phase: int, lm: FrozenLM, lessons: list[Lesson], small: Params
) -> None:
    split, small = replace(lm, sender_blocks=1), small.model_copy(update={"source": "block-1"})
    codec = make_codec(split, small)
    prompts = [lesson.prompt for lesson in lessons]
    loss = phase1_loss_of(split, codec, prompts, small) if phase == 1 else phase2_loss_of(split, codec, lessons, small)
    values, expected = gradient(codec, loss, [WHOLE])
    found, summed = gradient(codec, loss, list(own_parts(5, 2)))
    assert found == pytest.approx(values, rel=1e-4)
    torch.testing.assert_close(summed, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("window", [1, 2])
def test_tokens_of_the_vocabulary_in_a_step_depend_on_seed_and_step_alone(
    lm: FrozenLM, lessons: list[Lesson], small: Params, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run sees what an undisturbed one does: which steps were taken before, it does not know."""
    prompts = [lesson.prompt for lesson in lessons]
    fed = []
    coded_tokens = phase1.coded_tokens
    monkeypatch.setattr(phase1, "coded_tokens", lambda *given: fed.append(given[2].ids) or coded_tokens(*given))
    mixing = with_vocabulary(small, 0.5, window)
    codec = make_codec(lm, mixing)
    loss = phase1_loss_of(lm, codec, prompts, mixing)
    first = [loss(step).loss.item() for step in range(3)]
    assert phase1_loss_of(lm, codec, prompts, mixing)(2).loss.item() == first[2]
    assert torch.equal(fed[-1], fed[2])
    phase1_loss_of(lm, codec, prompts, mixing.model_copy(update={"seed": 1}))(2)
    assert not torch.equal(fed[-1].unique(), fed[2].unique())
    phase1_loss_of(lm, codec, prompts, with_vocabulary(small, 0.0, window))(2)
    known = {token for prompt in prompts for token in prompt.ids} | {lm.pad_id}
    assert set(fed[-1].unique().tolist()) <= known and not set(fed[2].unique().tolist()) <= known


def test_no_limit_is_one_part_and_a_batch_smaller_than_the_limit_too() -> None:
    assert list(own_parts(16, 0)) == list(own_parts(16, 16)) == list(own_parts(16, 99)) == [WHOLE]
    assert [row for part in own_parts(16, 5) for row in part.of(range(16))] == list(range(16))


def test_processes_take_turns_at_the_parts_and_need_as_many_rows_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "state", lambda: SimpleNamespace(num_processes=2, process_index=1))
    assert list(own_parts(8, 2)) == [Part(1, 4), Part(3, 4)]
    assert list(own_parts(8, 0)) == [Part(1, 2)]
    with pytest.raises(InputError, match="a batch of 5 can't be shared evenly among 2 processes"):
        own_parts(5, 0)


def test_a_teacher_that_keeps_the_whole_vocabulary_is_refused(
    lm: FrozenLM, lessons: list[Lesson], small: Params
) -> None:
    with pytest.raises(InputError, match=r"phase2.teacher_top_k 512 .* choose 1 to 511"):
        phase2_loss_of(lm, make_codec(lm, small), lessons, with_phase2(small, teacher_top_k=512))


def test_gradient_checkpointing_runs_the_blocks_again_and_changes_no_bit(
    tiny_model: object, lessons: list[Lesson], small: Params
) -> None:
    lm = FrozenLM.load(str(tiny_model))
    codec = make_codec(lm, small)
    runs = []
    blocks(lm.model)[0].self_attn.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    expected = gradient(codec, phase2_loss_of(lm, codec, lessons, small), [WHOLE])
    assert runs == [False, True]  # teacher, student
    lm.checkpoint_gradients()
    found = gradient(codec, phase2_loss_of(lm, codec, lessons, small), [WHOLE])
    assert runs == [False, True, False, True, True]
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])


def test_the_head_sees_answer_positions_only_and_one_position_in_generation(
    lm: FrozenLM, lessons: list[Lesson], small: Params
) -> None:
    shapes: list[torch.Size] = []
    hook = lm.model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    batch = phase2.lay_out(lm, lessons).batch
    with hook:
        phase2.teacher_forced(lm, make_codec(lm, small), lessons)
        tokens = sum(len(lesson.answer) for lesson in lessons)
        assert shapes == [(1, tokens, 512)] * 2 and tokens < batch.ids.numel() / 2
        shapes.clear()
        lm.generate(lm.embed(batch.ids), batch.mask, 3)
        assert {shape[1] for shape in shapes} == {1}


def test_parts_hold_lessons_of_like_length(
    lm: FrozenLM, lessons: list[Lesson], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid: list[list[int]] = []
    lay_out = phase2.lay_out

    def watched(lm: FrozenLM, some: list[Lesson]) -> phase2.LessonRows:
        laid.append([len(lesson.prompt.ids) for lesson in some])
        return lay_out(lm, some)

    monkeypatch.setattr(phase2, "lay_out", watched)
    unlike = [
        Lesson(EncodedPrompt(prompt.ids[-n:], prompt.coded[-n:], False), answer)
        for n, (prompt, answer) in zip(range(12, 60, 4), lessons, strict=True)
    ]
    loss = phase2_loss_of(lm, make_codec(lm, small), unlike, with_phase2(small, batch_size=6))
    for index in range(3):
        loss(0, Part(index, 3))
    lengths = [length for part in laid for length in part]
    assert [len(part) for part in laid] == [2, 2, 2] and lengths == sorted(lengths)


def test_a_kept_teacher_gives_the_loss_of_one_that_is_asked_at_every_step(
    lm: FrozenLM, lessons: list[Lesson], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = make_codec(lm, small)
    whole = phase2_loss_of(lm, codec, lessons, small)
    asked: list[Lesson] = []
    lay_out = phase2.lay_out
    monkeypatch.setattr(phase2, "lay_out", lambda lm, some: (asked.extend(some), lay_out(lm, some))[1])
    phase2_loss_of(lm, codec, lessons, with_phase2(small, teacher_top_k=1, steps=1))
    assert len(asked) == 5
    asked.clear()
    losses = {k: phase2_loss_of(lm, codec, lessons, with_phase2(small, teacher_top_k=k)) for k in (511, 20, 1)}
    assert [sum(lesson is one for one in asked) for lesson in lessons] == [3] * 12  # 4 steps draw 20
    for step in range(4):
        expected = whole(step).parts
        assert losses[511](step).parts == pytest.approx(expected, rel=1e-4)
        assert expected["kl"] > losses[20](step).parts["kl"] > losses[1](step).parts["kl"] > 0
        assert losses[20](step).parts["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-5)
