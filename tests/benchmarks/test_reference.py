"""What is computed once for each distinct token is what the plain way computes at every position."""

import inspect
import math
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from making import answerer_of, codec_of, phase2_loss_of, seal_questions
from scipy.linalg import subspace_angles

from benchmarks import plain, reference
from narrowband.codec import folded
from narrowband.codec.codec import Codec
from narrowband.codec.fitting import fit_pca
from narrowband.codec.folded import FoldedCodec
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import token_windows
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate, encode_prompts
from narrowband.data.splits import world_example
from narrowband.data.squad import Example, write_squad
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime import paths
from narrowband.training.losses import reconstruction_loss
from narrowband.training.phase1 import coded_tokens
from narrowband.training.phase2 import Lesson

ROOT = Path(__file__).parent.parent.parent

COMPRESS = 8


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [world_example(0, "train", i) for i in range(12)]


@pytest.fixture
def settings(params: Params, tiny_model: Path) -> Params:
    changes = {"base_model": str(tiny_model), "window": 1, "compress_dim": COMPRESS, "latent_bits": 32}
    return params.model_copy(update=changes)


@pytest.fixture
def prompts(lm: FrozenLM, examples: list[Example], settings: Params) -> list[EncodedPrompt]:
    return encode_prompts(lm.tokenizer, examples, settings.prompt)


def trained(lm: FrozenLM, prompts: list[EncodedPrompt], settings: Params) -> Codec:
    """A codec whose adapter does something, and whose scale is fitted where one is asked for."""
    vectors = reference.all_windows(lm, prompts, settings.window)
    codec = codec_of(PCA.fit(vectors, settings.compress_dim), settings)
    if settings.adapter.kind == "residual":
        torch.nn.init.normal_(codec.adapter.leave.weight, generator=torch.Generator().manual_seed(0))
    batch = collate(prompts, lm.pad_id)
    codec.calibrate([(lm.embed(batch.ids), batch.coded)])
    return codec


def largest_angle(a: PCA, b: PCA) -> float:
    return float(subspace_angles(a.components.double().numpy().T, b.components.double().numpy().T).max())


@pytest.mark.parametrize("window", [1, 2, 5])
def test_pca_from_counts_of_tokens_is_pca_of_every_window(
    lm: FrozenLM, prompts: list[EncodedPrompt], window: int
) -> None:
    vectors, rows = token_windows(lm, prompts, window)
    windows = reference.all_windows(lm, prompts, window)
    assert torch.equal(vectors[rows].flatten(1), windows) and len(vectors) < len(windows) * window
    ours, plain = PCA.fit(vectors, COMPRESS, rows), reference.fit_pca(windows.double(), COMPRESS)
    assert largest_angle(ours, plain) < 1e-4
    torch.testing.assert_close(ours.components, plain.components.float(), rtol=1e-2, atol=1e-3)  # signs too
    torch.testing.assert_close(ours.mean, plain.mean.float())
    torch.testing.assert_close(ours.explained_variance, plain.explained_variance.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.total_variance, plain.total_variance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("magnitude", ["none", "token", "calibrated", "example"])
@pytest.mark.parametrize("kind", ["residual", "layernorm"])
def test_phase_1_on_distinct_tokens_has_the_loss_and_gradients_of_all_positions(
    lm: FrozenLM, prompts: list[EncodedPrompt], settings: Params, magnitude: str, kind: str
) -> None:
    changes = {"magnitude": magnitude, "adapter": settings.adapter.model_copy(update={"kind": kind})}
    settings = settings.model_copy(update=changes)
    codec = trained(lm, prompts, settings).train()
    batch = collate(prompts, lm.pad_id)
    found = {}
    for way in (coded_tokens, reference.coded_tokens):
        codec.zero_grad()
        result = reconstruction_loss(way(lm, codec, batch), settings.loss.phase1)
        result.loss.backward()
        found[way] = result, {name: p.grad.clone() for name, p in codec.named_parameters() if p.requires_grad}
    (ours, our_gradients), (plain, plain_gradients) = found.values()
    assert ours.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)
    assert ours.parts == pytest.approx(plain.parts, rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in plain_gradients.values())
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("magnitude", ["none", "token", "example"])
def test_phase_2_on_distinct_tokens_has_the_loss_and_gradients_of_all_positions(
    lm: FrozenLM,
    prompts: list[EncodedPrompt],
    settings: Params,
    magnitude: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings.model_copy(update={"magnitude": magnitude})
    codec = trained(lm, prompts, settings).train()
    lessons = [Lesson(prompt, [5, 6, 7]) for prompt in prompts]
    found = []
    for way in (folded.reconstruct, reference.reconstruct):
        monkeypatch.setattr("narrowband.training.phase2.reconstruct", way)
        codec.zero_grad()
        loss = phase2_loss_of(lm, codec, lessons, settings)(0).loss
        loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in codec.named_parameters() if p.requires_grad}))
    (ours, our_gradients), (plain, plain_gradients) = found
    assert ours == pytest.approx(plain, rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in plain_gradients.values())
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], rtol=1e-5, atol=1e-5 * scale)


def test_dropout_of_its_own_at_every_position_is_kept(
    lm: FrozenLM, prompts: list[EncodedPrompt], settings: Params
) -> None:
    noisy = settings.model_copy(update={"adapter": settings.adapter.model_copy(update={"dropout": 0.5})})
    codec = trained(lm, prompts, noisy)
    assert codec.eval().takes_tokens_alone
    assert not codec.train().takes_tokens_alone
    assert not trained(lm, prompts, settings.model_copy(update={"window": 2})).takes_tokens_alone


@pytest.mark.parametrize("magnitude", ["none", "token", "calibrated"])
def test_a_folded_codec_returns_what_the_codec_does(
    lm: FrozenLM, prompts: list[EncodedPrompt], settings: Params, magnitude: str
) -> None:
    codec = trained(lm, prompts, settings.model_copy(update={"magnitude": magnitude}))
    batch = collate(prompts[:5], lm.pad_id)
    original = lm.embed(batch.ids)
    expected = codec(original, batch.coded).detach()
    assert not torch.allclose(expected, original)
    torch.testing.assert_close(FoldedCodec(codec, lm, prompts)(original, batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2])
def test_batched_folded_answers_are_those_of_one_by_one(
    lm: FrozenLM, prompts: list[EncodedPrompt], examples: list[Example], settings: Params, window: int
) -> None:
    settings = settings.model_copy(update={"window": window})
    codec = trained(lm, prompts, settings)
    answerer = answerer_of(lm, settings)
    ours, plain = answerer.answer(codec, examples), reference.answer(answerer, codec, examples)
    assert ours.predictions == plain.predictions and len(set(ours.predictions.values())) > 1
    assert ours.quality == pytest.approx(plain.quality, rel=1e-4)
    assert math.isclose(ours.bits_per_token, plain.bits_per_token)


@pytest.mark.parametrize("window", [1, 3])
def test_the_stage_fits_the_windows_of_all_training_prompts(
    lm: FrozenLM,
    examples: list[Example],
    prompts: list[EncodedPrompt],
    settings: Params,
    window: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_drawn_tokens = settings.phase1.model_copy(update={"vocabulary_share": 0})
    settings = settings.model_copy(update={"window": window, "phase1": without_drawn_tokens})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings.model_dump()))
    monkeypatch.chdir(tmp_path)
    write_squad(paths.QA / "train.json", "train", examples)
    seal_questions(paths.QA, settings)
    runpy.run_path(str(ROOT / "stages" / "fit_pca.py"))["main"]()
    exact = reference.fit_pca(reference.all_windows(lm, prompts, window).double(), COMPRESS)
    assert largest_angle(PCA.load(paths.PCA), exact) < 1e-4
    with patch("narrowband.codec.fitting.fit_pca", wraps=plain.fit_pca) as fitted:
        runpy.run_path(str(ROOT / "stages" / "fit_pca.py"))["main"]()
    assert fitted.call_count == 1 and largest_angle(PCA.load(paths.PCA), exact) < 1e-3


def test_a_stage_runs_the_plain_way(tmp_path: Path) -> None:
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import sys\n"
        "from narrowband.codec import fitting\n"
        "from narrowband.evaluation.answer import QuestionAnswerer\n"
        "from narrowband.training.phase1 import phase1_loss\n"
        "from narrowband.training.phase2 import teacher_forced\n"
        "found = (phase1_loss.__globals__['coded_tokens'], teacher_forced.__globals__['reconstruct'])\n"
        "print(*sys.argv[1:], *(way.__module__ for way in (fitting.fit_pca, QuestionAnswerer.answer, *found)))\n"
    )
    command = [sys.executable, "-m", "benchmarks.plain", str(stage), "argument"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["argument", "__main__", *["benchmarks.reference"] * 3]


@pytest.mark.parametrize(
    ("plain_way", "own"),
    [
        (reference.answer, QuestionAnswerer.answer),
        (plain.fit_pca, fit_pca),
        (reference.coded_tokens, coded_tokens),
        (reference.reconstruct, folded.reconstruct),
    ],
)
def test_the_plain_way_can_be_asked_for_all_that_stages_ask_for(plain_way: Callable, own: Callable) -> None:
    asked, given = (inspect.signature(way).parameters.keys() for way in (own, plain_way))
    assert asked - {"self"} == given - {"answerer"}
