"""The generation backend that runs on vLLM, for large base models.

Prefix caching reuses what prompts to continue begin with alike: the few-shot header.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Self

from narrowband.lm.base_model import locate
from narrowband.lm.sampling import Sampling
from narrowband.params import InputError
from narrowband.sft.backend import Continuation


class VllmBackend:
    """Wraps an engine with the `generate` of `vllm.LLM`; `sampling_params` is its `SamplingParams` class."""

    def __init__(self, engine: Any, sampling_params: Callable[..., Any]) -> None:
        self.engine = engine
        self.sampling_params = sampling_params

    @classmethod
    def load(cls, name: str, seed: int) -> Self:
        """Start an engine with the base model called `name`.

        Raises:
            InputError: vLLM is not installed.
        """
        require_vllm()
        from vllm import LLM, SamplingParams

        location = locate(name)
        engine = LLM(
            model=location.name,
            revision=location.revision,
            tokenizer_revision=location.revision,
            load_format="safetensors",
            trust_remote_code=False,
            seed=seed,
            enable_prefix_caching=True,
        )
        return cls(engine, SamplingParams)

    def complete(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> list[Continuation]:
        """See `Backend.complete`."""
        settings = [
            self.sampling_params(
                temperature=sampling.temperature,
                max_tokens=sampling.max_new_tokens,
                stop=list(sampling.stop_strings),
                skip_special_tokens=False,
                spaces_between_special_tokens=False,
                seed=seed,
            )
            for seed in seeds
        ]
        outputs = [result.outputs[0] for result in self._run(prompts, settings)]
        return [_continuation(output) for output in outputs]

    def margins(self, prompts: Sequence[Sequence[int]], good: Sequence[int], bad: Sequence[int]) -> list[float]:
        """See `Backend.margins`; both tokens are fed, because vLLM reports log-probabilities reliably only for prompt tokens."""
        rows = [[*ids, token] for ids, *pair in zip(prompts, good, bad, strict=True) for token in pair]
        found = [scores[-1] for scores in self.log_probs(rows)]
        return [a - b for a, b in zip(found[::2], found[1::2], strict=True)]

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Backend.log_probs`."""
        settings = [self.sampling_params(max_tokens=1, temperature=0.0, prompt_logprobs=1)] * len(rows)
        return [
            [at[token].logprob for token, at in zip(row[1:], result.prompt_logprobs[1:], strict=True)]
            for row, result in zip(rows, self._run(rows, settings), strict=True)
        ]

    def _run(self, prompts: Sequence[Sequence[int]], settings: Sequence[Any]) -> Any:
        return self.engine.generate(
            [{"prompt_token_ids": list(ids)} for ids in prompts], list(settings), use_tqdm=False
        )


def _continuation(output: Any) -> Continuation:
    """What vLLM wrote, without EOS; it leaves out the stop string, too, which is its `stop_reason` (of several EOS the id)."""
    if isinstance(output.stop_reason, str):
        return Continuation(output.text + output.stop_reason, "stop")
    return Continuation(output.text, "length" if output.finish_reason == "length" else "eos")


def require_vllm() -> None:
    """Raise an InputError if vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "generation.backend vllm needs vLLM, which is not installed; pip install -e .[vllm], or use transformers"
        )
