"""A context encoded once into a file, and questions answered from that file without the context or the encoder."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from narrowband.data.prompts import require_texts
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.params import InputError, first_line
from narrowband.reader.encoder import ContextEncoder
from narrowband.reader.shorten import latents, lay_rows
from narrowband.reader.split_prompt import SplitPrompt, split_prompt

STAND_IN, ANY = "It is so.", "What?"
"""Placeholders: the context of a question that is encoded alone, the question of a context that is."""


class Stored(NamedTuple):
    """The bytes of an encoded context, its tokens and vectors, and whether its end was truncated."""

    content: bytes
    tokens: int
    vectors: int
    truncated: bool


@torch.no_grad()
def store_context(answerer: QuestionAnswerer, encoder: ContextEncoder, context: str) -> Stored:
    """Encode a context for any question: its vectors as float16, and the settings that must match to read them.

    White space around the context is stripped, so that it shares no token with the text around it. Its end is truncated if the
    prompt would exceed `prompt.max_length`.

    Raises:
        InputError: it is empty, or shares a token with the text before it.
    """
    require_texts(context, ANY)
    lm = answerer.lm
    prompt = split_prompt(lm.tokenizer, context.strip(), ANY, answerer.prompt)
    if prompt.head != _frame(answerer, ANY).head:
        raise InputError("the context shares a token with the text before it; begin it with a word")
    (vectors,) = latents(lm, encoder, [prompt])
    header = {"prompt": answerer.prompt.model_dump(), "reader": asdict(encoder.config)}
    content = save({"vectors": vectors.half().cpu().contiguous()}, {"narrowband": json.dumps(header)})
    return Stored(content, len(prompt.context), len(vectors), prompt.truncated)


@torch.no_grad()
def answer_stored(answerer: QuestionAnswerer, file: Path, revision: str, question: str) -> str:
    """The answer to `question` about the context in `file`; `revision` is that of the base model that reads it.

    Raises:
        InputError: the file is missing or damaged, or was written for another base model or other prompts.
    """
    require_texts(STAND_IN, question)
    header, vectors = _read(file)
    expected = {"prompt": answerer.prompt.model_dump(), "base_model_revision": revision}
    found = {"prompt": header["prompt"], "base_model_revision": header["reader"]["base_model_revision"]}
    for name, wanted in expected.items():
        if found[name] != wanted:
            raise InputError(f"{file} was encoded with {name} {found[name]}, not {wanted}; encode the context again")
    rows = lay_rows(answerer.lm, [_frame(answerer, question)], [vectors.float()])
    (reply,) = answerer.generate(*rows)
    return reply.text


def _frame(answerer: QuestionAnswerer, question: str) -> SplitPrompt:
    """The parts of a prompt around the context."""
    return split_prompt(answerer.lm.tokenizer, STAND_IN, question, answerer.prompt)


def _read(file: Path) -> tuple[Mapping[str, Any], torch.Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return json.loads((opened.metadata() or {})["narrowband"]), opened.get_tensor("vectors")
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; write it with narrowband encode-context") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{file} is not an encoded context ({first_line(error)}); write it with narrowband encode-context"
        ) from None
