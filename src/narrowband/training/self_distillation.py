"""SFT records as lessons of Phase 2: the base model's own responses, through the codec, against its own logits."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from narrowband.codec.codec import Codec
from narrowband.data.encoded import EncodedPrompt
from narrowband.lm.frozen import FrozenLM
from narrowband.runtime.artifacts import MANIFEST, checked
from narrowband.runtime.entry import console
from narrowband.runtime.progress import bar
from narrowband.training.phase2 import Lesson, answer_logits, lay_out

HELD_OUT = 5
"""One record in this many is held out of training, beginning with the first."""


def read_sft(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Lesson], list[Lesson]]:
    """Lessons to train on, and lessons held out, from the records of `folder`; both are empty for an empty file.

    The whole prompt of a record passes through the codec; BOS, if the record has one, keeps its own embedding. The answer is
    the completion up to the end of the response, followed by a line break as in all answers.
    """
    path = folder / "train.jsonl"
    if not path.stat().st_size:
        return [], []
    with checked(path, MANIFEST).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    lessons = []
    for record in records:
        prompt, said, response = ids(record["prompt"]), record["completion"], record["response"]
        bos = [int(tokenizer.bos_token_id)] if record["bos"] else []
        answer = said[: said.index(response) + len(response)] + "\n"
        coded = [False] * len(bos) + [True] * len(prompt)
        lessons.append(Lesson(EncodedPrompt(bos + prompt, coded, truncated=False), ids(answer)))
    held_out = lessons[::HELD_OUT]
    return [lesson for i, lesson in enumerate(lessons) if i % HELD_OUT], held_out


@torch.no_grad()
def response_kl(lm: FrozenLM, codec: Codec, lessons: Sequence[Lesson], batch_size: int) -> float:
    """Mean KL(base model on originals || base model behind the codec) over response tokens, in nats per token."""
    codec.eval()
    total, tokens = 0.0, 0
    with bar("held-out SFT records", len(lessons), console) as advance:
        for start in range(0, len(lessons), batch_size):
            rows = lay_out(lm, lessons[start : start + batch_size])
            original = lm.states(rows.batch.ids, rows.batch.mask)
            both = (answer_logits(lm, embeddings, rows) for embeddings in (original, codec(original, rows.batch.coded)))
            teacher, student = (logits.log_softmax(-1) for logits in both)
            total += float((teacher.exp() * (teacher - student)).sum())
            tokens += int(rows.mask.sum())
            advance(len(rows.mask))
    return total / tokens
