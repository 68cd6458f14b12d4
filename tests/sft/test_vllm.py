"""The adapter against an engine with the contract of `vllm.LLM`, behind which the tiny model writes and judges."""

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch

from narrowband.lm.frozen import FrozenLM
from narrowband.lm.sampling import Sampling
from narrowband.params import InputError
from narrowband.sft.backend import TransformersBackend
from narrowband.sft.pool import encode_exactly
from narrowband.sft.vllm import VllmBackend


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    stop: list[str] = field(default_factory=list)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    seed: int | None = None
    prompt_logprobs: int | None = None


class Engine:
    """What the adapter needs of `vllm.LLM`; without `prompt_logprobs` it gives none, as vLLM does."""

    def __init__(self, lm: FrozenLM) -> None:
        self.lm = lm

    def generate(self, prompts: list[dict], sampling_params: list[SamplingParams], use_tqdm: bool) -> list:
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _one(self, ids: list[int], wanted: SamplingParams) -> SimpleNamespace:
        sampling = Sampling(wanted.temperature, wanted.max_tokens, tuple(wanted.stop) or ("\n\n",))
        said = TransformersBackend(self.lm).complete([ids], [wanted.seed or 0], sampling)[0]
        stop = next((stop for stop in wanted.stop if stop in said.text), None)
        text = said.text if wanted.include_stop_str_in_output or not stop else said.text.split(stop)[0]
        finish = "length" if said.finish == "length" else "stop"
        output = SimpleNamespace(text=text, finish_reason=finish, stop_reason=stop)
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
        assert adapter.complete(rows, [1, 2], sampling) == reference.complete(rows, [1, 2], sampling)
    margins = reference.margins(rows, [5, 6], [7, 8])
    assert adapter.margins(rows, [5, 6], [7, 8]) == pytest.approx(margins, abs=1e-4)
    for found, expected in zip(adapter.log_probs(rows), reference.log_probs(rows), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_end_of_text_is_told_from_a_stop_string() -> None:
    output = SimpleNamespace(text=" Paris", finish_reason="stop", stop_reason=None)
    engine = SimpleNamespace(generate=lambda *a, **k: [SimpleNamespace(outputs=[output])])
    assert VllmBackend(engine, SamplingParams).complete([[1]], [0], Sampling(0.0, 4, ("\n\n",)))[0].finish == "eos"


def test_without_vllm_the_fix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"pip install -e \.\[vllm\]"):
        VllmBackend.load("org/any", seed=0)
