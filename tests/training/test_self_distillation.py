import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from families import FAMILIES, make_tokenizer, metaspace_tokenizer
from making import codec_of, phase2_loss_of
from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import decode_after
from narrowband.params import Params
from narrowband.runtime.artifacts import MANIFEST, sha256, write_sealed
from narrowband.training import phase2
from narrowband.training.draws import turn
from narrowband.training.phase2 import Lesson
from narrowband.training.self_distillation import read_sft, response_kl

RECORDS = [
    {"bos": None, "prompt": f"Q: What is {i}+{i}?\nA:", "completion": f" {i + i}\n\nQ: What", "response": f"{i + i}"}
    for i in range(11)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return stored(RECORDS, tmp_path)


def stored(records: Iterable[dict], folder: Path) -> Path:
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_sealed(folder / MANIFEST, {"sha256": {"train.jsonl": sha256(folder / "train.jsonl")}})
    return folder


@pytest.fixture
def small(params: Params, tiny_model: Path) -> Params:
    training = params.phase2.model_copy(update={"batch_size": 4})
    data = params.data.model_copy(update={"phase2_sft_share": 0.25})
    return params.model_copy(update={"compress_dim": 8, "window": 2, "phase2": training, "data": data})


def codec(lm: FrozenLM, params: Params, components: int) -> Codec:
    vectors = torch.randn(200, 2 * lm.hidden_size, generator=torch.Generator().manual_seed(0))
    params = params.model_copy(update={"compress_dim": components, "latent_bits": 32})
    return codec_of(PCA.fit(vectors, components), params)


def text(lm: FrozenLM, lesson: Lesson) -> str:
    return lm.tokenizer.decode(lesson.prompt.ids + lesson.answer)


def test_lessons_are_prompts_as_fed_and_responses_that_end_with_a_line_break(lm: FrozenLM, path: Path) -> None:
    lessons, held_out = read_sft(path, lm.tokenizer)
    assert [text(lm, lesson) for lesson in held_out] == [f"Q: What is {i}+{i}?\nA: {i + i}\n" for i in (0, 5, 10)]
    assert len(lessons) == 8 and not {text(lm, one) for one in lessons} & {text(lm, one) for one in held_out}
    assert all(all(lesson.prompt.coded) and lesson.prompt.ids[0] != lm.tokenizer.bos_token_id for lesson in lessons)


def test_records_written_with_bos_are_read_with_it_outside_the_codec(lm: FrozenLM, path: Path) -> None:
    bare, _ = read_sft(path, lm.tokenizer)
    stored(({**record, "bos": "<|bos|>"} for record in RECORDS), path)
    lessons, _ = read_sft(path, lm.tokenizer)
    assert [one.prompt.ids for one in lessons] == [[lm.tokenizer.bos_token_id, *one.prompt.ids] for one in bare]
    assert all(one.prompt.coded == [False, *plain.prompt.coded] for one, plain in zip(lessons, bare, strict=True))


def with_prefix_normaliser() -> PreTrainedTokenizerBase:
    """A tokenizer as Llama 2's: a space comes before every text, whatever it begins with."""
    tokenizer = metaspace_tokenizer()
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    tokenizer.backend_tokenizer.pre_tokenizer = None
    return tokenizer


@pytest.mark.parametrize(
    "make", [metaspace_tokenizer, with_prefix_normaliser, lambda: make_tokenizer(FAMILIES["qwen2"])]
)
@pytest.mark.parametrize(
    "completion", ["Mara", " Mara", "  Mara 7", "\nMara", "\n Mara", "\u4f60\u597d", " क्\u200dष", "."]
)
@pytest.mark.parametrize("prompt", ["Where is", "Who?\n", "Q: Who?\nA:"])
def test_a_lesson_is_the_text_that_the_model_wrote_on_every_kind_of_tokenizer(
    make: Callable[[], PreTrainedTokenizerBase], completion: str, prompt: str, tmp_path: Path
) -> None:
    tokenizer = make()
    record = {"bos": None, "prompt": prompt, "completion": f"{completion}\n\n", "response": completion.strip()}
    (lesson,) = read_sft(stored([record], tmp_path), tokenizer)[1]
    assert decode_after(tokenizer, lesson.prompt.ids, lesson.answer) == f"{completion}\n"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_turns_come_evenly_and_number_both_kinds_without_a_gap(share: float) -> None:
    turns = [turn(share, step) for step in range(40)]
    for kind in (True, False):
        indices = [index for special, index in turns if special is kind]
        assert indices == list(range(len(indices)))
    assert sum(special for special, _ in turns) == round(40 * share)
    assert sum(special for special, _ in turns[:20]) == round(20 * share)


def test_the_share_of_steps_draws_from_sft_lessons(
    lm: FrozenLM, small: Params, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sft, qa = read_sft(path, lm.tokenizer)
    drawn: list[bool] = []
    forced = phase2.teacher_forced

    def spy(lm: FrozenLM, codec: Codec, lessons: list[Lesson]):
        drawn.append(all(lesson in sft for lesson in lessons))
        assert drawn[-1] or all(lesson in qa for lesson in lessons)
        return forced(lm, codec, lessons)

    monkeypatch.setattr(phase2, "teacher_forced", spy)
    step_loss = phase2_loss_of(lm, codec(lm, small, 8), qa, small, sft)
    for step in range(8):
        assert torch.isfinite(step_loss(step).loss)
    assert drawn == [False, False, False, True] * 2


def test_response_kl_is_nothing_for_a_lossless_codec_and_as_defined_for_another(
    lm: FrozenLM, small: Params, path: Path
) -> None:
    _, held_out = read_sft(path, lm.tokenizer)
    assert response_kl(lm, codec(lm, small, 64), held_out, 2) == pytest.approx(0, abs=1e-4)
    lossy = codec(lm, small, 8).eval()
    found = response_kl(lm, lossy, held_out, 2)
    total = tokens = 0.0
    for lesson in held_out:
        ids = torch.tensor([lesson.prompt.ids + lesson.answer])
        original = lm.embed(ids)
        coded = torch.tensor([[True] * len(lesson.prompt.ids) + [False] * len(lesson.answer)])
        places = slice(len(lesson.prompt.ids) - 1, -1)
        p, q = (
            lm.model(inputs_embeds=embeddings).logits[0, places].softmax(-1)
            for embeddings in (original, lossy(original, coded))
        )
        total += (p * (p / q).log()).sum().item()
        tokens += len(lesson.answer)
    assert found == pytest.approx(total / tokens, rel=1e-3) and found > 0.01
