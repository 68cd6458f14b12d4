"""What both sides of the wire know of a prompt, with a tokenizer that joins some punctuation with line breaks."""

import pytest
from families import joining_tokenizer, save_family
from making import answerer_of

from narrowband.data.prompts import encode_prompt
from narrowband.evaluation.wire import Frame, framed
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, Params


@pytest.fixture(scope="module")
def joining(tmp_path_factory: pytest.TempPathFactory) -> FrozenLM:
    folder = save_family("llama", tmp_path_factory.mktemp("joining") / "model")
    joining_tokenizer().save_pretrained(folder)
    return FrozenLM.load(str(folder))


@pytest.mark.parametrize("prefix", ["text", "codec"])
@pytest.mark.parametrize("anchor", ["text", "codec"])
@pytest.mark.parametrize(
    ("context", "question"),
    [
        ("A fox.", "A fox?"),
        ("\u957f\u6c5f\u5f88\u957f\u3002", "\u8c01\uff1f"),  # Chinese, full-width question mark
        ("\u0646\u0647\u0631.", "\u0645\u0646\u061f"),  # Arabic
        ("(a fox)", "which"),
    ],
)
def test_every_token_outside_the_known_frame_is_sent(
    joining: FrozenLM, params: Params, prefix: str, anchor: str, context: str, question: str
) -> None:
    prompt = params.prompt.model_copy(update={"bos": "none", "prefix": prefix, "anchor": anchor})
    known = Frame.known(answerer_of(joining, params.model_copy(update={"prompt": prompt})))
    own = encode_prompt(joining.tokenizer, context, question, prompt)
    sent = framed(own, known)
    inside = [id_ for id_, coded in zip(sent.ids, sent.coded, strict=True) if coded]
    assert known.before + inside + known.after == own.ids
    assert sum(sent.coded) - sum(own.coded) in ({0} if context == "A fox." else {0, 1, 2})


def test_what_is_joined_with_a_longer_frame_is_refused(joining: FrozenLM, params: Params) -> None:
    prompt = params.prompt.model_copy(update={"bos": "none"})
    known = Frame.of(encode_prompt(joining.tokenizer, "A fox.", "which", prompt))
    with pytest.raises(InputError, match="share a token with the text around them, which is not sent"):
        framed(encode_prompt(joining.tokenizer, "A fox.", "A fox?", prompt), known)
