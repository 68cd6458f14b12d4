"""One prompt as the codec returns it, token by token: each original beside the nearest entry of the vocabulary."""

from typing import NamedTuple

import torch
from rich.text import Text

from narrowband.codec.codec import Codec
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.evaluation.reconstruction import Quality
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.stop import decode_after


class TokenView(NamedTuple):
    """Texts of a prompt's coded tokens and of the nearest tokens of their reconstructions, with means over them."""

    original: list[str]
    nearest: list[str]
    matches: list[bool]
    quality: dict[str, float]


@torch.no_grad()
def token_view(lm: FrozenLM, codec: Codec, prompt: EncodedPrompt) -> TokenView:
    """Send `prompt` through `codec` and name the nearest token of every reconstruction."""
    batch = collate([prompt], lm.pad_id)
    original = lm.embed(batch.ids)
    rebuilt = codec(original, batch.coded)[batch.coded]
    ids = batch.ids[batch.coded]
    quality, nearest = Quality(), lm.nearest(rebuilt)
    quality.add(original[batch.coded], rebuilt, ids)
    quality.match(nearest, ids)
    return TokenView(
        token_texts(lm, ids.tolist()),
        token_texts(lm, nearest.tolist()),
        (nearest.cpu() == ids).tolist(),
        quality.means(),
    )


def token_texts(lm: FrozenLM, ids: list[int]) -> list[str]:
    """The text of each token behind another one, with its space; line breaks and other control characters are made visible."""
    before = lm.tokenizer(":", add_special_tokens=False).input_ids
    texts = (decode_after(lm.tokenizer, before, [i]) for i in ids)
    return ["".join(map(_visible, text)) for text in texts]


def _visible(character: str) -> str:
    if character == "\n":
        return "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"


def marked(view: TokenView) -> Text:
    """The reconstructed prompt as text, tokens that are not the original's in red."""
    pairs = zip(view.nearest, view.matches, strict=True)
    return Text.assemble(*((token, "" if match else "bold red") for token, match in pairs))
