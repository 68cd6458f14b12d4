"""What both sides of the wire know of a prompt, with a tokenizer that joins some punctuation with line breaks."""

import pytest
from families import joining_tokenizer, save_family
from making import answerer_of, streaming_codec_of

from narrowband.data.prompts import encode_prompt
from narrowband.data.splits import world_example
from narrowband.evaluation.wire import Frame, answer_stream, framed, write_stream
from narrowband.lm.frozen import FrozenLM
from narrowband.params import InputError, LatentCoding, Params


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


@pytest.mark.parametrize(
    ("changes", "answered"),
    [
        ({}, True),
        ({"max_length": 400}, True),
        ({"anchor": "codec"}, False),
        ({"prefix": "text"}, False),
        ({"bos": "none"}, False),
    ],
)
def test_a_stream_is_answered_where_the_prompt_has_the_same_frame(
    lm: FrozenLM, params: Params, changes: dict[str, object], answered: bool
) -> None:
    coding = LatentCoding(kind="entropy", bits_per_token=24, step=0)
    prompt = params.prompt.model_copy(update={"bos": "text"})
    params = params.model_copy(update={"window": 4, "compress_dim": 16, "latent_coding": coding, "prompt": prompt})
    sender = answerer_of(lm, params)
    codec = streaming_codec_of(lm, sender.encode([world_example(0, "train", i) for i in range(20)]), params)
    stream = write_stream(sender, codec, "Ode Rusk lives in Kell.", "Where does Ode Rusk live?").stream
    other = params.model_copy(update={"prompt": prompt.model_copy(update=changes)})
    if answered:
        assert answer_stream(answerer_of(lm, other), codec, stream) == answer_stream(sender, codec, stream)
    else:
        with pytest.raises(InputError, match="another codec or with other prompt settings"):
            answer_stream(answerer_of(lm, other), codec, stream)
