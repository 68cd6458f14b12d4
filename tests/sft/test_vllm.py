"""The adapter against an engine with the contract of `vllm.LLM`, behind which the tiny model writes and judges."""

import sys
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch

from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import Sampling, sample
from narrowband.params import InputError
from narrowband.sft.backend import Continuation, TransformersBackend
from narrowband.sft.pool import encode_exactly
from narrowband.sft.vllm import VllmBackend


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    stop: list[str] = field(default_factory=list)
    include_stop_str_in_output: bool = False
    """vLLM then also writes EOS out, if special tokens are not skipped."""
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    seed: int | None = None
    prompt_logprobs: int | None = None


class Engine:
    """What the adapter needs of `vllm.LLM`; without `prompt_logprobs` it gives none, as vLLM does.

    `eos_reason` is told at an EOS: None, or the id if the model has several.
    """

    def __init__(self, lm: FrozenLM, eos_reason: int | None = None) -> None:
        self.lm, self.eos_reason = lm, eos_reason

    def generate(self, prompts: list[dict], sampling_params: list[SamplingParams], use_tqdm: bool) -> list:
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _one(self, ids: list[int], wanted: SamplingParams) -> SimpleNamespace:
        sampling = Sampling(wanted.temperature, wanted.max_tokens, tuple(wanted.stop) or ("\n\n",))
        said = TransformersBackend(self.lm).complete([ids], [wanted.seed or 0], sampling)[0]
        stop = next((stop for stop in wanted.stop if stop in said.text), None)
        text = said.text[: said.text.index(stop)] if stop else said.text
        if wanted.include_stop_str_in_output:
            text += stop or (
                "" if wanted.skip_special_tokens or said.finish == "length" else self.lm.tokenizer.eos_token
            )
        finish = "length" if said.finish == "length" else "stop"
        reason = stop or (self.eos_reason if said.finish == "eos" else None)
        output = SimpleNamespace(text=text, finish_reason=finish, stop_reason=reason)
        return SimpleNamespace(
            outputs=[output], prompt_logprobs=self._logprobs(ids) if wanted.prompt_logprobs else None
        )

    def _logprobs(self, ids: list[int]) -> list[dict[int, SimpleNamespace] | None]:
        scores = self.lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return [
            None,
            *({token: SimpleNamespace(logprob=float(row[token]))} for token, row in zip(ids[1:], scores, strict=False)),
        ]


@pytest.fixture
def adapter(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> VllmBackend:
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    asked: dict[str, object] = {}
    module.LLM = lambda **settings: asked.update(settings) or Engine(lm)  # type: ignore[attr-defined]
    module.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    loaded = VllmBackend.load("org/any@v2", seed=3)
    revisions = {"revision": "v2", "tokenizer_revision": "v2"}
    safe = {"load_format": "safetensors", "trust_remote_code": False}
    assert asked == {"model": "org/any", **revisions, **safe, "seed": 3, "enable_prefix_caching": True}
    return loaded


def test_it_writes_and_judges_what_transformers_does(adapter: VllmBackend, lm: FrozenLM) -> None:
    reference = TransformersBackend(lm)
    rows = encode_exactly(lm.tokenizer, ["What is fog?\n", "The capital of France is"])
    free = reference.complete(rows, [1, 2], Sampling(0.9, 8, ("\n\n",)))
    for stop in ("\n\n", free[0].text[2:5]):
        sampling = Sampling(0.9, 8, (stop,))
        expected = [
            Continuation(one.text[: one.text.index(stop) + len(stop)] if one.finish == "stop" else one.text, one.finish)
            for one in reference.complete(rows, [1, 2], sampling)
        ]
        assert adapter.complete(rows, [1, 2], sampling) == expected
    margins = reference.margins(rows, [5, 6], [7, 8])
    assert adapter.margins(rows, [5, 6], [7, 8]) == pytest.approx(margins, abs=1e-4)
    for found, expected in zip(adapter.log_probs(rows), reference.log_probs(rows), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("eos_reason", [None, 2])
def test_a_text_that_ends_in_eos_is_that_of_transformers(
    lm: FrozenLM, eos_reason: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, sampling = encode_exactly(lm.tokenizer, ["What is fog?\n"]), Sampling(0.0, 8, ("\n\n",))
    ids = torch.tensor(rows)
    written = sample(lm, ids, torch.ones_like(ids, dtype=torch.bool), [0], sampling)[0].tolist()
    last = next(token for token in written if token != written[0])
    tokenizer = deepcopy(lm.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(last)  # the model now ends there
    monkeypatch.setattr(lm, "tokenizer", tokenizer)
    (expected,) = TransformersBackend(lm).complete(rows, [0], sampling)
    assert expected.finish == "eos" and expected.text
    assert VllmBackend(Engine(lm, eos_reason), SamplingParams).complete(rows, [0], sampling) == [expected]


def test_without_vllm_the_fix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"pip install -e \.\[vllm\]"):
        VllmBackend.load("org/any", seed=0)
