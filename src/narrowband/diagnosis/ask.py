"""One question to the uncompressed model, PCA and both phases."""

import torch
from rich.table import Table
from rich.text import Text

from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.data.prompts import collate, encode_prompt, require_texts
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.evaluation.headline import TITLES
from narrowband.evaluation.systems import load_systems
from narrowband.evaluation.tokens import marked, token_view
from narrowband.lm.rows import KnownTokens


def ask_systems(context: str, question: str, answerer: QuestionAnswerer, config: CodecConfig) -> Table:
    """Each system's answer, with the nearest tokens of its reconstruction; tokens that differ from the original in red.

    Raises:
        InputError: an artifact is missing, the question is longer than a prompt may be, or one of the texts is empty.
    """
    require_texts(context, question)
    lm = answerer.lm
    prompt = encode_prompt(lm.tokenizer, context, question, answerer.prompt)
    batch = collate([prompt], lm.pad_id)
    original = lm.embed(batch.ids)
    shown = Table("system", "answer", "token match", "cosine", "nearest tokens", show_lines=True)
    for column in shown.columns:
        column.overflow = "fold"  # also texts without spaces, which would be cut off
    systems: dict[str, Codec | None] = {"uncompressed": None, **load_systems(answerer, config)}
    for name, codec in systems.items():
        with torch.no_grad():
            embeddings = codec(original, batch.coded) if codec else original
        (reply,) = answerer.generate(embeddings, batch.mask, KnownTokens(batch.shared))
        row: list[str | Text] = [TITLES[name], Text(reply.text or "(nothing)")]
        if codec:
            view = token_view(lm, codec, prompt)
            row += [f"{view.quality['token_match']:.1f}", f"{view.quality['cosine']:.3f}", marked(view)]
        shown.add_row(*row)
    if prompt.truncated:
        shown.caption = f"the end of the context was left out: prompt.max_length is {answerer.prompt.max_length} tokens"
    return shown
