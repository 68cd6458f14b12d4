"""Tests whether a base model answers left-padded batches of embeddings as it answers tokens.

A list of families would never be complete. The test runs a few prompts of different lengths, as tokens and as embeddings, alone
and batched, and computes one gradient, in the dtype and on the device used. Its result is cached.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from narrowband.lm.base_model import id_count
from narrowband.lm.cache import cache_folder
from narrowband.lm.model_revision import model_revision
from narrowband.lm.rows import left_padded
from narrowband.params import InputError, first_line
from narrowband.runtime.entry import console
from narrowband.runtime.files import read_cached, write_json

if TYPE_CHECKING:
    from narrowband.lm.frozen import FrozenLM

LENGTHS = (3, 9, 26)
"""Lengths of the test prompts, in tokens."""
NEW = 3
"""Number of generated tokens, so that the key-value cache is tested, too."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}
"""Maximum relative error of logits; rounding errors are below a tenth of it, leaks from padding well above."""

VERSION = 2
"""Of the test; results of another one don't count."""


class Said(NamedTuple):
    """The generated tokens, and the logits at each step of generation."""

    logits: Float[Tensor, "batch steps vocab"]
    tokens: Int[Tensor, "batch new"]


def batchable(name: str, lm: "FrozenLM") -> bool:
    """Whether the model called `name` may be given several prompts at a time; if not, this is said.

    Raises:
        InputError: its answers to embeddings and to their tokens differ, it gives embeddings no gradient, its logits are NaN, or
            they depend on later tokens.
    """
    known = _result_file(name, lm)
    match read_cached(known):
        case {"batchable": bool(alike)}:
            pass
        case _:
            alike = probe(name, lm)
            with contextlib.suppress(OSError):  # without a writable cache, the test is repeated
                write_json(known, {"batchable": alike})
    if not alike:
        console.print(
            f"base_model {name} answers differently in a left-padded batch than alone; it is run one prompt at a time, which is "
            "slower",
            style="yellow",
            soft_wrap=True,
        )
    return alike


def probe(name: str, lm: "FrozenLM") -> bool:
    """Run the test; see `batchable`."""
    try:
        return _ask(name, lm)
    except InputError:
        raise
    except Exception as error:  # any exception, from a model's own code
        raise InputError(
            f"base_model {name} is a {type(lm.model).__name__} that can't be fed embeddings ({first_line(error)}); give a model "
            "of another family"
        ) from None


def _ask(name: str, lm: "FrozenLM") -> bool:
    prompts = _prompts(lm)
    from_tokens = [_answer(lm, input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]) for ids in prompts]
    _require_numbers(name, lm, from_tokens)
    alone = [_after_embeddings(lm, [ids]) for ids in prompts]
    for asked, expected in zip(alone, from_tokens, strict=True):
        _require(name, lm, "its next tokens after embeddings and after the same tokens", asked, expected)
    scored = [lm.logits(*_padded(lm, [ids]), last=1) for ids in prompts]
    for logits, expected in zip(scored, from_tokens, strict=True):
        _require(name, lm, "its logits with and without a cache", Said(logits, expected.tokens), expected)
    _require_causal(name, lm, prompts[0])
    _require_gradient(name, lm, prompts[-1])
    together = _after_embeddings(lm, prompts)
    logits = lm.logits(*_padded(lm, prompts), last=1)
    return all(
        _same(lm, Said(together.logits[i : i + 1], together.tokens[i : i + 1]), row)
        and _same(lm, Said(logits[i : i + 1], row.tokens), row)
        for i, row in enumerate(alone)
    )


def continues_alike(lm: "FrozenLM", ids: Sequence[int], cache: Callable[[Bool[Tensor, "batch seq"]], Cache]) -> bool:
    """Whether prompts that begin with `ids` get the same answers with and without a `cache` of their first tokens."""
    before = torch.tensor(list(ids), device=lm.device)
    prompts = [torch.cat([before, prompt]) for prompt in _prompts(lm)]
    embeddings, mask = _padded(lm, prompts)
    embeddings = embeddings.to(lm.model.dtype)
    whole, rest = (
        _answer(lm, inputs_embeds=embeddings, attention_mask=mask.long(), **known)
        for known in ({}, {"past_key_values": cache(mask)})
    )
    rows = ([Said(a.logits[i : i + 1], a.tokens[i : i + 1]) for i in range(len(prompts))] for a in (rest, whole))
    return all(_same(lm, *pair) for pair in zip(*rows, strict=True))


def _prompts(lm: "FrozenLM") -> list[Int[Tensor, " length"]]:
    generator = torch.Generator().manual_seed(0)
    ids = id_count(lm.tokenizer)
    return [torch.randint(ids, (length,), generator=generator).to(lm.device) for length in LENGTHS]


def _padded(
    lm: "FrozenLM", prompts: list[Int[Tensor, " length"]]
) -> tuple[Float[Tensor, "batch seq hidden"], Bool[Tensor, "batch seq"]]:
    ids, mask = left_padded(prompts, lm.pad_id)
    return lm.embed(ids), mask


def _after_embeddings(lm: "FrozenLM", prompts: list[Int[Tensor, " length"]]) -> Said:
    embeddings, mask = _padded(lm, prompts)
    return _answer(lm, inputs_embeds=embeddings.to(lm.model.dtype), attention_mask=mask.long())


@torch.no_grad()
def _answer(lm: "FrozenLM", **prompt: Tensor | Cache) -> Said:
    """Greedy answers to `input_ids` or `inputs_embeds`, with their `attention_mask` and, if given, a key-value cache."""
    output = lm.model.generate(  # type: ignore[operator]
        **prompt,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        pad_token_id=lm.pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Said(torch.stack(output.logits, 1).float(), output.sequences[:, -NEW:])


def _require_numbers(name: str, lm: "FrozenLM", said: Sequence[Said]) -> None:
    if any(row.logits.isnan().any() for row in said):
        dtype = str(lm.model.dtype).removeprefix("torch.")
        raise InputError(
            f"base_model {name} gives logits that are NaN in {dtype}, so its weights are damaged or too large for it; download "
            "it again, or give another model"
        )


def _require_causal(name: str, lm: "FrozenLM", ids: Int[Tensor, " length"]) -> None:
    """Require that logits do not depend on a token after theirs; of a short prompt, where one token counts for much."""
    other = torch.cat([ids[:-1], (ids[-1:] + 1) % id_count(lm.tokenizer)])
    with torch.no_grad():
        before, after = (lm.logits(*_padded(lm, [row]), last=len(ids))[:, :-1] for row in (ids, other))
    if not _close(lm, after, before):
        raise InputError(
            f"base_model {name} is a {type(lm.model).__name__} whose logits depend on later tokens, so it does not predict them; "
            "give a causal LM, or set is_decoder in its config.json if it is one"
        )


def _same(lm: "FrozenLM", found: Said, expected: Said) -> bool:
    """Whether logits agree up to the first token that differs; after it they can't be compared."""
    agreed = (found.tokens == expected.tokens)[0].long().cumprod(0).sum().item()
    steps = min(int(agreed) + 1, found.logits.shape[1], expected.logits.shape[1])
    return _close(lm, found.logits[:, :steps], expected.logits[:, :steps])


def _close(lm: "FrozenLM", left: Float[Tensor, "batch steps vocab"], right: Float[Tensor, "batch steps vocab"]) -> bool:
    error = (left - right).norm() / (right - right.mean(-1, keepdim=True)).norm()
    return bool(error <= TOLERANCE[lm.model.dtype])  # False for NaN


def _require(name: str, lm: "FrozenLM", what: str, found: Said, expected: Said) -> None:
    if not _same(lm, found, expected):
        raise InputError(
            f"base_model {name} is a {type(lm.model).__name__} that can't be fed embeddings: {what} differ; give a model of "
            "another family"
        )


def _require_gradient(name: str, lm: "FrozenLM", ids: Int[Tensor, " length"]) -> None:
    embeddings, mask = _padded(lm, [ids])
    embeddings.requires_grad_()
    lm.logits(embeddings, mask, last=2).log_softmax(-1)[..., 0].sum().backward()
    gradient = embeddings.grad
    if gradient is None or not gradient.isfinite().all() or not gradient.abs().sum(-1).all():
        raise InputError(
            f"base_model {name} is a {type(lm.model).__name__} that passes no gradient to each of its input embeddings, so "
            "nothing can be trained through it; give a model of another family"
        )


def _result_file(name: str, lm: "FrozenLM") -> Path:
    asked = (
        VERSION,
        model_revision(name),
        str(lm.model.dtype),
        lm.device.type,
        transformers.__version__,
        torch.__version__,
    )
    return cache_folder() / "probes" / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:32]}.json"
