"""A context encoded once into a file, and questions answered from that file without the context or the encoder."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from narrowband.data.prompts import require_texts
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.lm.base_model import max_positions
from narrowband.params import InputError, Natural, Section
from narrowband.reader.encoder import ContextEncoder, ReaderConfig
from narrowband.reader.shorten import latents, lay_rows
from narrowband.reader.split_prompt import split_prompt

STAND_IN, ANY = "It is so.", "What?"
"""Placeholders: the context of a question that is encoded alone, the question of a context that is."""


class Stored(NamedTuple):
    """The bytes of an encoded context, its tokens and vectors, and whether its end was truncated."""

    content: bytes
    tokens: int
    vectors: int
    truncated: bool


class Header(Section):
    """What a file says beside its vectors: the settings that must match to read them, and the ids of tokens around them.

    `head` stands before the vectors, and `joint` for the line break after them. Both depend on the context: the tokens at its
    ends can also stand for a part of the text around it.
    """

    prompt: dict[str, Any]
    reader: ReaderConfig
    head: list[Natural]
    joint: list[Natural]


@torch.no_grad()
def store_context(answerer: QuestionAnswerer, encoder: ContextEncoder, context: str) -> Stored:
    """Encode a context for any question: its vectors as float16, with a `Header`.

    White space around the context is stripped. Its end is truncated if the prompt would exceed `prompt.max_length`.

    Raises:
        InputError: it is empty.
    """
    require_texts(context, ANY)
    lm = answerer.lm
    prompt = split_prompt(lm.tokenizer, context.strip(), ANY, answerer.prompt)
    (vectors,) = latents(lm, encoder, [prompt])
    joint = prompt.question[: prompt.joint]
    header = Header(prompt=answerer.prompt.model_dump(), reader=encoder.config, head=prompt.head, joint=joint)
    content = save({"vectors": vectors.half().cpu().contiguous()}, {"narrowband": header.model_dump_json()})
    return Stored(content, len(prompt.context), len(vectors), prompt.truncated)


@torch.no_grad()
def answer_stored(answerer: QuestionAnswerer, file: Path, revision: str, question: str) -> str:
    """The answer to `question` about the context in `file`; `revision` is that of the base model that reads it.

    Raises:
        InputError: the file is missing or damaged, or was written for another base model or other prompts; or the question is
            too long.
    """
    require_texts(STAND_IN, question)
    header, vectors = _read(file)
    lm = answerer.lm
    expected = {"prompt": answerer.prompt.model_dump(), "base_model_revision": revision}
    found = {"prompt": header.prompt, "base_model_revision": header.reader.base_model_revision}
    for name, wanted in expected.items():
        if found[name] != wanted:
            raise InputError(f"{file} was encoded with {name} {found[name]}, not {wanted}; encode the context again")
    if (
        vectors.shape[1:] != (lm.hidden_size,)
        or max(header.head + header.joint, default=0) >= lm.embedding.num_embeddings
    ):
        raise _foreign(file)
    asked = split_prompt(lm.tokenizer, STAND_IN, question, answerer.prompt)
    asked = asked._replace(head=header.head, question=header.joint + asked.question[asked.joint :])
    rows = lay_rows(lm, [asked], [vectors.float()])
    length, new, most = rows.mask.shape[1], answerer.max_new_tokens, max_positions(lm.model)
    if most is not None and length + new > most:
        raise InputError(
            f"a question of {len(asked.question)} tokens after {file} takes {length} positions and its answer {new}, more than "
            f"the {most} of the base model; shorten the question, or encode a shorter context"
        )
    (reply,) = answerer.generate(*rows)
    return reply.text


def _read(file: Path) -> tuple[Header, Tensor]:
    if not file.is_file():
        fault = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"{file} {fault}; name a file that narrowband encode-context wrote")
    try:
        with safe_open(file, framework="pt") as opened:
            header = Header.model_validate_json((opened.metadata() or {})["narrowband"])
            return header, opened.get_tensor("vectors")
    except (SafetensorError, KeyError, ValueError):
        raise _foreign(file) from None


def _foreign(file: Path) -> InputError:
    return InputError(f"{file} is not an encoded context, or is damaged; write it with narrowband encode-context")
