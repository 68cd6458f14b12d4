"""SFT records as lessons of Phase 2: the base model's own responses, through the codec, against its own logits."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from narrowband.codec.codec import Codec
from narrowband.data.encoded import EncodedPrompt
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.plain_text import encode_plainly
from narrowband.lm.stop import decode_after
from narrowband.runtime.artifacts import MANIFEST, checked
from narrowband.runtime.progress import bar
from narrowband.training.losses import AnswerLogits, answer_terms
from narrowband.training.phase2 import Lesson, answer_logits, lay_out

HELD_OUT = 5
"""One record in this many is held out of training, beginning with the first."""


def read_sft(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons to train on, and lessons held out, from the records of `folder`; both are empty for an empty file.

    The whole prompt of a record passes through the codec; BOS, if the record has one, keeps its own embedding. The answer is
    the completion up to the end of the response, followed by a line break as in all answers; its tokens are those of the tokenizer,
    which a model that draws at random does not always write.
    """
    path = folder / "train.jsonl"
    if not path.stat().st_size:
        return [], []
    with checked(path, MANIFEST).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]

    lessons = []
    for record in records:
        prompt, said, response = _ids(tokenizer, record["prompt"]), record["completion"], record["response"]
        bos = [int(tokenizer.bos_token_id)] if record["bos"] else []
        answer = said[: said.index(response) + len(response)] + "\n"
        coded = [False] * len(bos) + [True] * len(prompt)
        tokens = _continuation(tokenizer, prompt, answer)
        lessons.append(Lesson(EncodedPrompt(bos + prompt, coded, truncated=False), tokens))
    held_out = lessons[::HELD_OUT]
    return [lesson for i, lesson in enumerate(lessons) if i % HELD_OUT], held_out


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(encode_plainly(tokenizer, text).input_ids)


def _continuation(tokenizer: PreTrainedTokenizerBase, prompt: list[int], text: str) -> list[int]:
    """Tokens that stand for exactly `text` behind a prompt, where some tokenizers put a space before a text of its own."""
    alone, after_break = _ids(tokenizer, text), _ids(tokenizer, f"\n{text}")[len(_ids(tokenizer, "\n")) :]
    return next((ids for ids in (alone, after_break) if decode_after(tokenizer, prompt, ids) == text), alone)


@torch.no_grad()
def response_kl(lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson], batch_size: int) -> float:
    """Mean KL(base model on originals || base model behind the codec) over response tokens, in nats per token."""
    codec.eval()
    total, tokens = 0.0, 0
    with bar("held-out SFT records", len(lessons)) as advance:
        for start in range(0, len(lessons), batch_size):
            rows = lay_out(lm, lessons[start : start + batch_size])
            original = lm.states(rows.batch.ids, rows.batch.mask)
            sent = codec(original, rows.batch.coded)
            teacher, student = (answer_logits(lm, embeddings, rows) for embeddings in (original, sent))
            kl = answer_terms(AnswerLogits(student, teacher, rows.targets[rows.mask]), 1.0)[1]
            total += float(kl) * len(student)
            tokens += len(student)
            advance(len(rows.mask))
    return total / tokens
