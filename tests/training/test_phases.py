import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from families import save_family
from making import answerer_of, codec_of, phase1_loss_of, phase2_loss_of, seal_questions, streaming_codec_of
from safetensors.torch import load_file

from narrowband.codec.adapter import Shape, make_adapter
from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.fitting import fit_pca
from narrowband.codec.pca import PCA
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate, encode_answer, encode_prompt
from narrowband.data.splits import world_example
from narrowband.data.squad import Answer, write_squad
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.evaluation.systems import validation_questions, validation_settings
from narrowband.evaluation.uncompressed import write_uncompressed
from narrowband.lm.device import mixed_precision
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params
from narrowband.runtime.artifacts import read_config, write_config
from narrowband.runtime.files import write_tensors
from narrowband.training.draws import Draws
from narrowband.training.loop import Evaluation, StepLoss
from narrowband.training.losses import Reconstruction, reconstruction_loss
from narrowband.training.phase1 import coded_tokens, drawn_prompts, fit_detectors
from narrowband.training.phase2 import Lesson
from narrowband.training.phases import PhaseRun, quick_evaluation, read_lessons, validated_with

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def small(params: Params, tiny_model: Path) -> Params:
    phases = {name: getattr(params, name).model_copy(update={"batch_size": 4}) for name in ("phase1", "phase2")}
    return params.model_copy(update={"base_model": str(tiny_model), "compress_dim": 8, "window": 2, **phases})


@pytest.fixture
def lessons(lm: FrozenLM, small: Params) -> list[Lesson]:
    examples = [world_example(0, "train", i) for i in range(12)]
    return [
        Lesson(
            encode_prompt(lm.tokenizer, e.context, e.question, small.prompt), encode_answer(lm.tokenizer, e.golds[0])
        )
        for e in examples
    ]


@pytest.fixture
def codec(lm: FrozenLM, small: Params) -> Codec:
    vectors = torch.randn(200, 2 * lm.hidden_size, generator=torch.Generator().manual_seed(0))
    return codec_of(PCA.fit(vectors, small.compress_dim), small)


@pytest.mark.parametrize("phase", [1, 2])
def test_training_lowers_the_loss_and_leaves_the_language_model_byte_for_byte(
    phase: int, lm: FrozenLM, codec: Codec, lessons: list[Lesson], small: Params
) -> None:
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    prompts = [lesson.prompt for lesson in lessons]
    step_loss = phase1_loss_of(lm, codec, prompts, small) if phase == 1 else phase2_loss_of(lm, codec, lessons, small)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-2)
    first = step_loss(0).loss.item()
    for step in range(40):
        optimizer.zero_grad()
        step_loss(step % 3).loss.backward()
        optimizer.step()
    assert step_loss(0).loss.item() < 0.95 * first
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in lm.model.parameters())


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("magnitude", ["none", "calibrated"])
def test_fitted_detectors_recover_some_of_what_pca_loses_and_are_saved(
    window: int, magnitude: str, lm: FrozenLM, small: Params, tmp_path: Path
) -> None:
    """On other questions than those they are fitted to; rows are no whole number of windows."""
    chosen = small.model_copy(update={"window": window, "compress_dim": 8 * window, "magnitude": magnitude})
    train, other = (
        [encode_prompt(lm.tokenizer, e.context, e.question, small.prompt) for e in examples]
        for examples in ([world_example(0, "train", i) for i in range(first, first + 40)] for first in (0, 1000))
    )
    codec = codec_of(fit_pca(lm, train, chosen.compress_dim, window), chosen)
    codec.scale.fill_(3.0 if magnitude == "calibrated" else 1)

    def error(of: Codec) -> float:
        batch = collate(other, lm.pad_id)
        with torch.no_grad():
            found = coded_tokens(lm, of, batch)
        return float((found.original - found.reconstructed).square().sum(-1).mean())

    before = error(codec)
    draws = drawn_prompts(lm.tokenizer, train, Draws(0, 4), 0.0)
    fit_detectors(lm, codec, draws, 4)
    after = error(codec)
    assert after < 0.8 * before
    codec.save(tmp_path, {})
    assert error(Codec.load(tmp_path)) == after
    again = codec_of(codec.pca, chosen)
    again.scale.copy_(codec.scale)
    fit_detectors(lm, again, draws, 4)
    assert error(again) == after


@pytest.mark.parametrize(("source", "share"), [("block-1", 0.0), ("embeddings", 0.3)])
def test_detectors_are_fitted_to_states_and_vocabulary_tokens_with_rounded_latents(
    source: str, share: float, small: Params
) -> None:
    coding = small.latent_coding.model_copy(update={"kind": "entropy", "step": 0.5})
    chosen = small.model_copy(update={"window": 1, "compress_dim": 12, "source": source, "latent_coding": coding})
    sender = FrozenLM.load(chosen.base_model, source)
    examples = [world_example(0, "train", i) for i in range(40)]
    prompts = [encode_prompt(sender.tokenizer, e.context, e.question, small.prompt) for e in examples]
    codec = streaming_codec_of(sender, prompts, chosen)
    torch.nn.init.zeros_(codec.adapter.leave.weight)
    draws = drawn_prompts(sender.tokenizer, prompts, Draws(0, 4), share)
    batch = collate(draws(0), sender.pad_id)

    def error() -> float:
        with torch.no_grad():
            found = coded_tokens(sender, codec, batch)
        return float((found.original - found.reconstructed).square().mean())

    before = error()
    fit_detectors(sender, codec, draws, 4)
    assert error() < 0.9 * before


def test_a_codec_of_another_version_is_refused(codec: Codec, tmp_path: Path) -> None:
    codec.save(tmp_path, {})
    tensors = load_file(tmp_path / "adapter.safetensors")
    del tensors["adapter.detectors.offset"]
    write_tensors(tmp_path / "adapter.safetensors", tensors)
    settings = {name: value for name, value in read_config(tmp_path).items() if name != "sha256"}
    write_config(tmp_path, settings)
    with pytest.raises(InputError, match="another version"):
        Codec.load(tmp_path)


def test_detectors_are_those_of_the_most_frequent_tokens(lm: FrozenLM, lessons: list[Lesson], small: Params) -> None:
    prompts = [lesson.prompt for lesson in lessons]
    codec = codec_of(fit_pca(lm, prompts, 8, 1), small.model_copy(update={"window": 1}))
    asked: list[torch.Tensor] = []
    codec.adapter.fit = lambda batches, tokens: asked.append(tokens)
    fit_detectors(lm, codec, drawn_prompts(lm.tokenizer, prompts, Draws(0, 4), 0.0), 4)
    found = Counter(i for prompt in prompts for i, on in zip(prompt.ids, prompt.coded, strict=True) if on)
    counts = [found[i] for i in asked[0].tolist()]
    assert counts == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("adapter", [{"kind": "layernorm"}, {"detectors": 0}])
def test_an_adapter_without_detectors_is_left_as_it_is(
    adapter: dict[str, object], lm: FrozenLM, lessons: list[Lesson], small: Params, tmp_path: Path
) -> None:
    without = small.model_copy(update={"adapter": small.adapter.model_copy(update=adapter)})
    prompts = [lesson.prompt for lesson in lessons]
    codec = codec_of(fit_pca(lm, prompts, 8, 2), without)
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    fit_detectors(lm, codec, drawn_prompts(lm.tokenizer, prompts, Draws(0, 4), 0.0), 4)
    codec.save(tmp_path, {})
    for name, tensor in Codec.load(tmp_path).state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_long_answer_is_taught_as_far_as_the_model_has_positions(params: Params, tmp_path: Path) -> None:
    """The model embeds absolute positions and has no more, so a longer row would end in an IndexError."""
    lm = FrozenLM.load(str(save_family("gpt2", tmp_path / "model", n_positions=96)))
    prompt = params.prompt.model_copy(update={"max_length": 80})
    few = params.model_copy(update={"prompt": prompt, "window": 2, "compress_dim": 8})
    examples = [
        replace(one, answers=(Answer(one.context, 0),)) for one in (world_example(0, "train", i) for i in range(4))
    ]
    write_squad(tmp_path / "qa.json", "any", examples)
    lessons = read_lessons(answerer_of(lm, few), tmp_path / "qa.json")
    assert max(len(lesson.prompt.ids) + len(lesson.answer) for lesson in lessons) == 96
    codec = codec_of(PCA.fit(torch.randn(100, 2 * lm.hidden_size), 8), few)
    assert phase2_loss_of(lm, codec, lessons, few)(0).loss.isfinite()


def test_teacher_forced_logits_sit_where_generation_would_produce_the_answer(
    lm: FrozenLM, lessons: list[Lesson]
) -> None:
    """With the model's own greedy answers as targets, argmax at the answer positions is the answer."""
    rows = []
    for lesson in lessons[:3]:
        tokens = lm.model.generate(
            torch.tensor([lesson.prompt.ids]),
            max_new_tokens=5,
            min_new_tokens=5,
            do_sample=False,
            pad_token_id=lm.pad_id,
        )
        rows.append(Lesson(lesson.prompt, tokens[0, len(lesson.prompt.ids) :].tolist()))
    batch = collate([row.prompt for row in rows], lm.pad_id, [row.answer[:-1] for row in rows])
    logits = lm.logits(lm.embed(batch.ids), batch.mask, 5)
    assert logits.argmax(-1).tolist() == [row.answer for row in rows]


def test_answers_never_pass_through_the_codec(lessons: list[Lesson], lm: FrozenLM) -> None:
    batch = collate([row.prompt for row in lessons], lm.pad_id, [row.answer for row in lessons])
    for row, coded in zip(lessons, batch.coded, strict=True):
        assert not coded[-len(row.answer) :].any()
        assert int(coded.sum()) == sum(row.prompt.coded)


def test_draw_sees_every_item_once_an_epoch_and_depends_on_seed_and_step_alone() -> None:
    items, draws = list(range(12)), Draws(7, 4)
    assert len({item for step in range(3) for item in draws.batch([*items, 12], step)}) == 12  # one of 13 is left out
    epoch = [draws.batch(items, step) for step in range(3)]
    assert sorted(item for batch in epoch for item in batch) == items
    assert draws.batch(items, 1) == epoch[1]
    assert draws.batch(items, 3) != epoch[0]


def test_bos_and_cue_pass_through_the_codec_or_not_as_asked(lm: FrozenLM, params: Params) -> None:
    def coded(bos: str, anchor: str) -> tuple[EncodedPrompt, str]:
        prompt = params.prompt.model_copy(update={"bos": bos, "anchor": anchor})
        encoded = encode_prompt(lm.tokenizer, "Orvane is a town.", "What is Orvane?", prompt)
        ids = [token for token, through in zip(encoded.ids, encoded.coded, strict=True) if through]
        return encoded, lm.tokenizer.decode(ids)

    body = "Context: Orvane is a town.\nQuestion: What is Orvane?"
    assert coded("text", "text")[1] == body
    assert coded("codec", "text")[1] == lm.tokenizer.bos_token + body
    assert coded("text", "codec")[1] == body + "\nAnswer:"
    assert coded("none", "text")[0].ids[0] != lm.tokenizer.bos_token_id


def test_the_prefix_stays_text_or_passes_through_the_codec_as_asked(lm: FrozenLM, params: Params) -> None:
    def texts(prefix: str) -> tuple[str, str]:
        prompt = params.prompt.model_copy(update={"prefix": prefix})
        encoded = encode_prompt(lm.tokenizer, "Orvane is a town.", "What is Orvane?", prompt)
        split: dict[bool, list[int]] = {True: [], False: []}
        for token, through in zip(encoded.ids, encoded.coded, strict=True):
            split[through].append(token)
        return lm.tokenizer.decode(split[False], skip_special_tokens=True), lm.tokenizer.decode(split[True])

    assert texts("codec") == ("\nAnswer:", "Context: Orvane is a town.\nQuestion: What is Orvane?")
    assert texts("text") == ("Context:\nAnswer:", " Orvane is a town.\nQuestion: What is Orvane?")


@pytest.mark.parametrize(("start", "first_bias"), [("phase1", 7.0), ("scratch", 0.0)])
def test_phase_2_starts_from_phase_1_or_from_scratch_as_asked(
    start: str,
    first_bias: float,
    lm: FrozenLM,
    codec: Codec,
    params: Params,
    small: Params,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    still = {"steps": 1, "batch_size": 2, "lr": 1e-12, "evaluate_every": 1}
    settings = small.model_copy(
        update={
            "phase1": params.phase1,
            "phase2": params.phase2.model_copy(update={**still, "start": start}),
            "data": small.data.model_copy(update={"sft_records": 0}),
        }
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings.model_dump()))
    (tmp_path / "dvc.yaml").write_text("stages: {train_phase2: {deps: []}}")
    (tmp_path / "data" / "sft").mkdir(parents=True)
    (tmp_path / "data" / "sft" / "train.jsonl").touch()
    for split in ("train", "validation"):
        write_squad(tmp_path / "data" / "qa" / f"{split}.json", split, [world_example(0, split, i) for i in range(3)])
    codec.pca.save(tmp_path / "artifacts" / "pca", codec.config.geometry)
    torch.nn.init.constant_(codec.adapter.leave.bias, 7.0)
    known = {"f1": 100.0, "em": 99.0, "cosine": 0.5, "norm_ratio": 1.0}
    seal_questions(tmp_path / "data" / "qa", settings)
    monkeypatch.chdir(tmp_path)
    answerer, config, quick = QuestionAnswerer.load(settings), CodecConfig.of(settings), settings.data.quick
    own = answerer.answer(None, validation_questions(quick))
    about = validation_settings(answerer, config.base_model_revision, config.source, quick)
    write_uncompressed("validation", own, about)
    settled = validated_with(answerer, config, quick)
    codec.save(Path("artifacts/phase1"), {"validation": known, "validated_with": settled})
    stage = runpy.run_path(str(ROOT / "stages" / "train_phase2.py"))
    stage["main"]()
    trained = load_file(tmp_path / "artifacts" / "phase2" / "adapter.safetensors")["adapter.leave.bias"]
    torch.testing.assert_close(trained, torch.full_like(trained, first_bias), rtol=0, atol=1e-6)
    first = (tmp_path / "artifacts" / "log" / "phase2" / "evaluations.csv").read_text().splitlines()[1]
    assert (first == "0,100,99,0.5,1") == (start == "phase1")  # the evaluation that ended Phase 1 is not made again


def test_an_answer_that_looks_like_markup_is_printed_as_it_is(
    codec: Codec, lm: FrozenLM, small: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    example = replace(world_example(0, "validation", 0), answers=(Answer("[/INST] [bold]", 0),))
    quick_evaluation("phase1", answerer_of(lm, small), codec, [example])()
    assert "phase1: expected '[/INST] [bold]', answered" in capsys.readouterr().out


def test_a_long_context_loses_its_end_and_keeps_question_and_cue(lm: FrozenLM, params: Params) -> None:
    prompt = params.prompt.model_copy(update={"max_length": 60})
    encoded = encode_prompt(lm.tokenizer, "begin " + "word " * 200 + "end", "What is Orvane?", prompt)
    text = lm.tokenizer.decode(encoded.ids, skip_special_tokens=True)
    assert encoded.truncated and len(encoded.ids) == len(encoded.coded) == 60
    assert text.startswith("Context: begin") and "end" not in text
    assert text.endswith("\nQuestion: What is Orvane?\nAnswer:")


@pytest.mark.parametrize("native", [False, True])
def test_a_phase_computes_its_losses_in_mixed_precision_where_the_cpu_has_it(
    native: bool, small: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    module, seen = torch.nn.Linear(4, 4), []

    def loss(step: int, part: object) -> StepLoss:
        product = module(torch.ones(2, 4))
        seen.append(product.dtype)
        return StepLoss(product.float().square().sum(), {})

    def evaluate() -> Evaluation:
        seen.append(module(torch.ones(2, 4)).dtype)
        return Evaluation(1.0, {"f1": 1.0})

    schedule = small.phase1.model_copy(update={"steps": 2, "evaluate_every": 2, "warmup": 1})
    phase = PhaseRun("phase1", schedule, 0, "fingerprint")
    phase.train(module, loss, 8, evaluate)
    assert seen == [torch.float32, *[torch.bfloat16 if native else torch.float32] * 2, torch.float32]
    assert module.weight.dtype is torch.float32


@pytest.mark.parametrize("kind", ["residual", "layernorm"])
def test_mixed_precision_leaves_the_direction_of_the_gradient(
    kind: Literal["residual", "layernorm"], small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    windows = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)) / 200  # far from the layernorm's length
    pca = PCA.fit(windows, 32)
    adapter = make_adapter(pca, Shape(2, 32), small.adapter.model_copy(update={"kind": kind}))

    def loss() -> StepLoss:
        rebuilt = adapter(pca.encode(windows))
        return reconstruction_loss(Reconstruction(windows.view(-1, 32), rebuilt.view(-1, 32)), small.loss.phase1)

    exact = gradient(adapter, loss())
    with mixed_precision():
        rounded = loss()
    assert torch.nn.functional.cosine_similarity(exact, gradient(adapter, rounded), dim=0) > 0.999


def gradient(module: torch.nn.Module, loss: StepLoss) -> torch.Tensor:
    module.zero_grad()
    loss.loss.backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
