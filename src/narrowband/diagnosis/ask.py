"""One question to every system of the workspace."""

from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from narrowband.data.prompts import collate, encode_prompt
from narrowband.evaluation.headline import TITLES
from narrowband.evaluation.systems import load_systems
from narrowband.evaluation.tokens import marked, token_view
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params

ARTIFACTS = Path("artifacts")


def ask_systems(context: str, question: str, params: Params) -> Table:
    """Each system's answer, with the nearest tokens of its reconstruction; those that are not the original's in red.

    Raises:
        InputError: an artifact is missing, the question is longer than a prompt may be, or one of the texts is empty.
    """
    if not context.strip() or not question.strip():
        raise InputError("--context and --question must hold text; give a passage and a question about it")
    pca, phase1, phase2 = (ARTIFACTS / name for name in ("pca", "phase1", "phase2"))
    lm = FrozenLM.load(params.base_model)
    prompt = encode_prompt(lm.tokenizer, context, question, params.prompt)
    batch = collate([prompt], lm.pad_id)
    original, mask = lm.embed(batch.ids), batch.mask.to(lm.device)
    shown = Table("system", "answer", "token match", "cosine", "nearest tokens", show_lines=True)
    for name, codec in load_systems(lm, Path("data/qa"), pca, phase1, phase2, params).items():
        with torch.no_grad():
            embeddings = codec(original, batch.coded) if codec else original
        (answer,) = lm.generate(embeddings, mask, params.generation.max_new_tokens)
        row: list[str | Text] = [TITLES[name], Text(answer or "(nothing)")]
        if codec:
            view = token_view(lm, codec, prompt)
            row += [f"{view.quality['token_match']:.1f}", f"{view.quality['cosine']:.3f}", marked(view)]
        shown.add_row(*row)
    return shown
