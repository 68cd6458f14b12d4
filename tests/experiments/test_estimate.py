"""What a run takes, estimated: sums that can be done by hand, from speeds that are given."""

from pathlib import Path

import pytest
import torch
from making import answerer_of, codec_of
from torch import nn
from transformers import PreTrainedModel

from narrowband.codec.pca import PCA
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.splits import world_example
from narrowband.experiments import estimate as estimates
from narrowband.experiments.estimate import (
    STAGES,
    Asked,
    Estimate,
    Speed,
    adapter_size,
    estimate,
    estimate_of,
    estimate_table,
    in_words,
    measure,
    require_stage,
    sentence,
    tell_time,
)
from narrowband.lm import stop
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params
from narrowband.reader.encoder import ContextEncoder, ReaderConfig
from narrowband.runtime.entry import console

SPEED = Speed(train=0.004, read=0.01, write=0.1, kept=1000.0)
TRAIN = [EncodedPrompt([5] * 20, [True] * 20, False), EncodedPrompt([5] * 40, [True] * 40, False)]
TEST = [EncodedPrompt([5, 6, 7, 7] * 10, [False] + [True] * 39, False)]
ASKED = Asked(TRAIN, TEST)


@pytest.fixture
def small(params: Params, tiny_model: Path) -> Params:
    return params.model_copy(update={"base_model": str(tiny_model), "window": 2, "compress_dim": 8})


def test_stages_by_hand(small: Params, lm: FrozenLM) -> None:
    found = estimate(small, lm, ASKED, SPEED)
    embedded = 512 * 32
    per_entry = 0.01 * embedded / (sum(p.numel() for p in lm.model.parameters()) - embedded)
    writing = small.generation.max_new_tokens * 0.1
    assert list(found.seconds) == list(STAGES)
    assert found.seconds["evaluate"] == pytest.approx(small.data.test * 3 * (40 * 0.01 + writing + 39 * per_entry))
    plain = small.data.test * (40 * 0.01 + writing) + small.data.quick * (30 * 0.01 + writing)
    assert found.seconds["uncompressed"] == pytest.approx(plain)
    phase2 = small.phase2
    evaluations = phase2.steps // phase2.evaluate_every  # none before the first step: Phase 1's is known
    steps = phase2.steps * phase2.batch_size * 40 * 3 * 0.004  # the student's two passes and the teacher's, padded
    answers = small.data.quick * (30 * (0.01 + per_entry) + writing)
    assert found.seconds["train_phase2"] == pytest.approx(steps + evaluations * answers)
    scratch = small.model_copy(update={"phase2": phase2.model_copy(update={"start": "scratch"})})
    assert estimate(scratch, lm, ASKED, SPEED).seconds["train_phase2"] == pytest.approx(
        steps + (1 + evaluations) * answers
    )
    assert found.memory["activations"] == phase2.batch_size * 40 * 1000
    assert found.memory["vocabulary"] == 2 * 512 * 32 * 4


def test_bfloat16_copies_of_the_weights_count(small: Params, lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(parameter.numel() for parameter in lm.model.parameters())
    for native, size in ((False, 4), (True, 6)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        assert estimate(small, lm, ASKED, SPEED).memory["weights"] == weights * size


def test_what_saves_time_or_memory_is_counted(small: Params, lm: FrozenLM) -> None:
    cheaper = small.phase2.model_copy(update={"teacher_top_k": 8, "micro_batch": 2})
    before, after = (
        estimate(params, lm, ASKED, SPEED) for params in (small, small.model_copy(update={"phase2": cheaper}))
    )
    assert after.seconds["train_phase2"] < before.seconds["train_phase2"]
    assert after.memory["activations"] == 2 * 40 * 1000


@pytest.mark.parametrize(("kind", "depth"), [("embeddings", 0), ("pretrained", 0), ("scratch", 1)])
def test_a_reader_takes_time_and_memory_only_where_there_is_one(
    kind: str, depth: int, small: Params, lm: FrozenLM
) -> None:
    def found(**changes: object) -> Estimate:
        params = small.model_copy(update={"reader": small.reader.model_copy(update=changes)})
        return estimate(params, lm, ASKED, SPEED)

    def numbers(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)

    nothing = found(encoder=kind, depth=depth)
    assert nothing.seconds["train_reader"] == 0
    steps = {"steps": 30, "pretrain_steps": 10, "batch_size": 2, "evaluate_every": 100}
    shorter = found(tokens_per_position=4, encoder=kind, depth=depth, **{**steps, "steps": 20})
    longer = found(tokens_per_position=4, encoder=kind, depth=depth, **steps)
    encoder = ContextEncoder(lm, ReaderConfig("", 4, kind, depth))
    mlp, copied = numbers(encoder.enter, encoder.leave), numbers(encoder.copy) if encoder.copy else 0
    body = sum(p.numel() for p in lm.model.parameters()) - 512 * 32
    passes = 1 + 3 * (copied + mlp / 4) / body + 2 / 4  # teacher; encoder and student forward and backward
    step = (longer.seconds["train_reader"] - shorter.seconds["train_reader"]) / 10
    assert step == pytest.approx(2 * 40 * 0.004 * passes, rel=1e-2)  # padded
    assert longer.memory["adapter or encoder"] == pytest.approx(5 * 4 * (mlp + copied), rel=1e-2)
    assert longer.memory["adapter or encoder"] > nothing.memory["adapter or encoder"]


def test_at_window_1_each_distinct_token_is_looked_for_once(small: Params, lm: FrozenLM) -> None:
    one = small.model_copy(update={"window": 1, "compress_dim": 4})
    wide, narrow = (estimate(params, lm, ASKED, SPEED).seconds["evaluate"] for params in (small, one))
    embedded = 512 * 32
    per_entry = 0.01 * embedded / (sum(p.numel() for p in lm.model.parameters()) - embedded)
    assert wide - narrow == pytest.approx(small.data.test * 3 * (39 - 3) * per_entry)


def test_the_adapter_is_counted_without_making_it(small: Params, lm: FrozenLM) -> None:
    codec = codec_of(PCA.fit(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)), 8), small)
    found = adapter_size(small, lm.hidden_size)
    assert found.trained == sum(p.numel() for p in codec.parameters() if p.requires_grad)
    detectors = codec.adapter.detectors.state_dict().values()
    assert found.fixed == sum(tensor.numel() for tensor in detectors) + 1  # the RMS


def test_what_an_adapter_fits_in_closed_form_takes_time_and_memory(small: Params, lm: FrozenLM) -> None:
    layernorm = small.model_copy(update={"adapter": small.adapter.model_copy(update={"kind": "layernorm"})})
    body = sum(p.numel() for p in lm.model.parameters()) - 512 * 32
    for params in (small, layernorm):
        trained, fixed = adapter_size(params, lm.hidden_size)
        empty = params.model_copy(update={"phase1": params.phase1.model_copy(update={"batch_size": 0})})
        found, without_steps = (estimate(one, lm, ASKED, SPEED) for one in (params, empty))
        assert found.memory["adapter or encoder"] == 4 * (5 * trained + fixed)
        step = params.phase1.batch_size * 30 * 0.004 * (3 * trained + fixed) / body
        steps = found.seconds["train_phase1"] - without_steps.seconds["train_phase1"]
        assert steps == pytest.approx(params.phase1.steps * step)


def test_a_model_is_measured_and_left_as_it_was(small: Params, lm: FrozenLM) -> None:
    prompts = answerer_of(lm, small).encode([world_example(0, "train", i) for i in range(3)])
    speed = measure(lm, prompts, 4)
    assert speed.train > 0 and speed.read > 0 and speed.write > 0
    assert speed.kept > lm.hidden_size * 4  # at least the embeddings themselves
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_new_tokens_are_timed_even_if_answers_end_at_once(
    small: Params, lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    lm.model.register_forward_hook(lambda *given: passes.append(1))
    monkeypatch.setattr(stop, "until_end", lambda text, at: (text, True))
    monkeypatch.setattr(estimates, "_clock", lambda: float(len(passes)))
    prompts = answerer_of(lm, small).encode([world_example(0, "train", i) for i in range(3)])
    assert measure(lm, prompts, 4).write == 1 / 4  # a pass for each new token of four rows


def test_fewer_questions_than_asked_for_take_less_time_unless_they_are_made(
    small: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "measure", lambda *given: SPEED)
    splits = {split: [world_example(0, split, i) for i in range(5)] for split in ("train", "validation", "test")}
    of_a_file = small.model_copy(update={"dataset": "few.json"})
    made, found = (estimate_of(params, splits).seconds for params in (small, of_a_file))
    assert found["evaluate"] == pytest.approx(made["evaluate"] * 5 / small.data.test)
    assert found["references"] == pytest.approx(made["references"] * min(5 / small.baselines.questions, 1))
    assert found["uncompressed"] < made["uncompressed"]


def test_the_last_stage_ends_the_estimate_and_an_unknown_one_is_refused(small: Params, lm: FrozenLM) -> None:
    assert list(estimate(small, lm, ASKED, SPEED).until("train_phase1").seconds) == [
        "generate_data",
        "uncompressed",
        "train_phase1",
    ]
    with pytest.raises(
        InputError, match="no estimate of a stage fit_pca; choose generate_data, uncompressed, train_phase1, "
    ):
        require_stage("fit_pca")


def test_it_is_told_in_a_sentence_and_in_a_table(small: Params, lm: FrozenLM) -> None:
    found = estimate(small, lm, ASKED, SPEED).until("evaluate")
    assert sentence(found).startswith("on this machine a run takes about ")
    with console.capture() as captured:
        console.print(estimate_table(found))
    assert "evaluate" in captured.get() and "memory: activations" in captured.get()


@pytest.mark.parametrize(("seconds", "said"), [(7.4, "7 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_in_words(seconds: float, said: str) -> None:
    assert in_words(seconds) == said


def test_check_tells_the_time_of_a_large_model_alone(
    small: Params, lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: PreTrainedModel = lm.model
    splits = {name: [world_example(0, name, i) for i in range(3)] for name in ("train", "test")}
    with console.capture() as quiet:
        tell_time(small, model, splits)
    monkeypatch.setattr(estimates, "LARGE_MODEL", 0)
    with console.capture() as told:
        tell_time(small, model, splits)
    assert quiet.get() == "" and "on this machine a run takes about" in told.get()
