"""A question as a file of bytes, and its answer from these bytes alone."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from narrowband.codec.codec import Codec
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate, encode_prompt, require_texts
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.params import InputError


class Written(NamedTuple):
    """The stream of one prompt, the number of tokens in it, and whether the context was truncated."""

    stream: bytes
    n_tokens: int
    truncated: bool


class Frame(NamedTuple):
    """Tokens that stand before and after those that pass through the codec."""

    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, prompt: EncodedPrompt) -> "Frame":
        """The frame of `prompt`."""
        first, last = prompt.coded.index(True), len(prompt.coded) - prompt.coded[::-1].index(True)
        return cls(prompt.ids[:first], prompt.ids[last:])

    @classmethod
    def known(cls, answerer: QuestionAnswerer) -> "Frame":
        """The frame that both sides know from `prompt` in params.yaml: that of any question."""
        return cls.of(encode_prompt(answerer.lm.tokenizer, "A text.", "What?", answerer.prompt))

    def shared_by(self, codec: Codec) -> Codec:
        """`codec`, but one that refuses streams written with another frame, which other prompt settings make."""
        return codec.with_associated(f"{self.before} {self.after}".encode())


def framed(prompt: EncodedPrompt, known: Frame) -> EncodedPrompt:
    """`prompt` with all tokens coded but those of the known frame.

    Its own frame can be longer: a tokenizer may join "?" with the line break after it, but not "？".

    Raises:
        InputError: `prompt` does not begin and end with the known frame.
    """
    before, after = map(len, known)
    inside = len(prompt.ids) - before - after
    if inside < 1 or Frame(prompt.ids[:before], prompt.ids[before + inside :]) != known:
        raise InputError(
            "context or question share a token with the text around them, which is not sent; begin the context with a word "
            'and end the question with a question mark ("?")'
        )
    return prompt._replace(coded=[False] * before + [True] * inside + [False] * after)


def write_stream(answerer: QuestionAnswerer, codec: Codec, context: str, question: str) -> Written:
    """Write one prompt, without the known frame; all tokens between its two parts are sent.

    Raises:
        InputError: the codec writes no streams; a text is empty or shares a token with the frame; or the question is too long.
    """
    require_texts(context, question)
    known = Frame.known(answerer)
    prompt = framed(encode_prompt(answerer.lm.tokenizer, context, question, answerer.prompt), known)
    batch = collate([prompt], answerer.lm.pad_id)
    (stream,) = known.shared_by(codec).encode(answerer.lm.embed(batch.ids), batch.coded)
    return Written(stream, sum(prompt.coded), prompt.truncated)


def answer_stream(answerer: QuestionAnswerer, codec: Codec, stream: bytes) -> str:
    """The answer to the question in `stream`.

    Raises:
        InputError: the codec reads no streams, or the stream is damaged or was written by another codec or with other
            prompt settings.
    """
    known = Frame.known(answerer)
    (tokens,) = known.shared_by(codec).decode([stream])
    before, after = (answerer.lm.embed(torch.tensor(ids, dtype=torch.long)) for ids in known)
    embeddings: Float[Tensor, "1 seq hidden"] = torch.cat([before, tokens, after])[None]
    (reply,) = answerer.generate(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool))
    return reply.text
