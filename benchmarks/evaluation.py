"""Evaluation: batched answers against one by one, and what decoding and the codec cost of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.measure import Row, flops, interleaved, matmul_peak, seconds
from benchmarks.setting import answerer, base_lm, codec, examples, prompts, prompts_after, setting
from narrowband.codec.config import CodecConfig
from narrowband.codec.fitting import fit_coder
from narrowband.codec.folded import FoldedCodec
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import Batch, collate
from narrowband.evaluation.answer import batches_by_length
from narrowband.evaluation.reconstruction import Quality
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.rows import KnownTokens
from narrowband.lm.stop import Reply, TextEnd

QUESTIONS, ALONE = 256, 32
"""Questions answered in batches and one by one."""

SHOTS, AFTER = 2, 64
"""Worked examples before each question, and questions answered after them: one batch."""

TEST = 1000
"""Questions of the committed test split, over which the folded table is shared."""

BITS, FITTED = 16, 600
"""Bits a token of streams, and training prompts that their coder is fitted to."""


def throughput() -> Row:
    """Questions a second."""
    asked = answerer(setting(16))
    times = interleaved(
        {
            "one by one": lambda: reference.answer(asked, None, examples(ALONE)),
            "batched": lambda: asked.answer(None, examples(QUESTIONS)),
        },
        3,
    )
    work = flops(lambda: asked.answer(None, examples(QUESTIONS)))
    most = QUESTIONS * matmul_peak() / work
    rates = {"one by one": ALONE / times["one by one"], "batched": QUESTIONS / times["batched"]}
    return Row(
        "evaluation throughput (questions a second), against one-by-one generation",
        rates["batched"] / rates["one by one"],
        8,
        True,
        times,
        {f"{name} questions a second": rate for name, rate in rates.items()},
        f"the matmul peak allows {most:.0f} questions a second, {most / rates['one by one']:.1f}x: one prompt alone already "
        "keeps the cores busy",
    )


def in_batches(lm: FrozenLM, asked: Sequence[EncodedPrompt], size: int) -> tuple[list[Batch], list[Tensor]]:
    """Prompts of similar length together, `size` at a time; their embeddings."""
    batches = [collate([asked[i] for i in rows], lm.pad_id) for rows in batches_by_length(asked, size)]
    return batches, [lm.embed(batch.ids) for batch in batches]


def shared_examples() -> Row:
    """Answers after worked examples, whose keys and values are computed once or with every prompt."""
    lm, generation = base_lm(), setting(16).generation
    asked = prompts_after(SHOTS, AFTER)
    batches, originals = in_batches(lm, asked, generation.batch_size)

    def answers(*, share: bool) -> list[list[Reply]]:
        return [
            lm.generate(
                original, batch.mask, generation.max_new_tokens, known=KnownTokens(batch.shared if share else ())
            )
            for batch, original in zip(batches, originals, strict=True)
        ]

    alike = answers(share=True) == answers(share=False)
    times = interleaved({"whole": lambda: answers(share=False), "shared": lambda: answers(share=True)}, 3)
    lengths = {
        "tokens_of_examples": asked[0].shared,
        "tokens_of_prompts": sum(len(one.ids) for one in asked) / len(asked),
    }
    return Row(
        f"answers after {SHOTS} worked examples, keys and values of these computed once, against whole prompts",
        times["whole"] / times["shared"],
        1.5,
        True,
        times,
        {**lengths, "the same answers": float(alike)},
        "new tokens are written one at a time either way",
    )


def folded_cost() -> Row:
    """The cost of the codec at window 1, with its quality and rate, relative to generation."""
    lm, made, params = base_lm(), codec(1).eval(), setting(1)
    asked = prompts(TEST)
    batches, originals = in_batches(lm, asked, params.generation.batch_size)

    def folding() -> None:
        folded, quality = FoldedCodec(made, lm, asked), Quality()
        quality.add(folded.original, folded.reconstructed, folded.ids, folded.counts)
        quality.match(lm.nearest(folded.reconstructed), folded.ids, folded.counts)
        for batch, original in zip(batches, originals, strict=True):
            folded(original, batch)
            made.bits(original, batch.coded)

    @torch.no_grad()
    def per_position() -> None:
        quality = Quality()
        for batch, original in zip(batches, originals, strict=True):
            rebuilt, ids = made(original, batch.coded)[batch.coded], batch.ids[batch.coded]
            quality.add(original[batch.coded], rebuilt, ids)
            quality.match(lm.nearest(rebuilt), ids)
            made.bits(original, batch.coded)

    def generation() -> None:
        for batch, original in zip(batches, originals, strict=True):
            lm.generate(original, batch.mask, params.generation.max_new_tokens)

    seconds(folding)
    times = interleaved({"folded": folding, "per position": per_position, "generation": generation}, 3)
    return Row(
        "codec at window 1, folded, with its quality: share of generation time",
        times["folded"] / times["generation"],
        0.02,
        False,
        times,
        {"per_position_share": times["per position"] / times["generation"]},
        "the adapter has more FLOPs for a token than this small LM",
    )


def decoding() -> Row:
    """The steps after the first token, and how many of them go on with answers that have ended."""
    lm, params = base_lm(), setting(16)
    generation = params.generation
    asked = prompts(TEST)
    batches, originals = in_batches(lm, asked, generation.batch_size)

    def answers(most: int) -> list[Tensor]:
        return [
            lm.greedy(
                TextEnd.of_answer(lm.tokenizer, generation.stop, 0),
                most,
                inputs_embeds=original,
                attention_mask=batch.mask.long(),
            )
            for batch, original in zip(batches, originals, strict=True)
        ]

    written = answers(generation.max_new_tokens)
    run = sum(tokens[:, 1:].numel() for tokens in written)
    needed = sum(int((tokens[:, 1:] != lm.pad_id).sum()) for tokens in written)
    ways = {"first tokens": lambda: answers(1), "answers": lambda: answers(generation.max_new_tokens)}
    times = interleaved(ways, 3)
    return Row(
        "steps after the first token of each answer: share of the time to read prompts and answer",
        1 - times["first tokens"] / times["answers"],
        0.5,
        False,
        times,
        {"tokens_of_an_answer": 1 + needed / len(asked), "share of steps of rows that have ended": 1 - needed / run},
        "a row that has ended goes on, as padding, to the end of its batch",
    )


def streams_cost(window: int) -> Row:
    """Prompts as byte streams and back, as an evaluation of a codec with entropy coding sends them."""
    lm, params = base_lm(), setting(window)
    coding = params.latent_coding.model_copy(update={"kind": "entropy", "bits_per_token": BITS})
    params = params.model_copy(update={"latent_coding": coding})
    plain, config = codec(window).eval(), CodecConfig.of(params)
    made = plain.with_rate(config, fit_coder(lm, prompts(FITTED), plain.pca, config.latent_coding, config.magnitude))
    asked, answering = prompts(TEST), answerer(params)
    batches, originals = in_batches(lm, asked, answering.batch_size)
    sizes: list[int] = []

    def streams() -> None:
        for batch, original in zip(batches, originals, strict=True):
            written = made.encode(original, batch.coded)
            made.decode(written)
            sizes.extend(map(len, written))

    @torch.no_grad()
    def without() -> None:
        for batch, original in zip(batches, originals, strict=True):
            plain(original, batch.coded)

    streams()
    bits = 8 * sum(sizes) / sum(sum(prompt.coded) for prompt in asked)
    ways = {"streams": streams, "codec without": without, "evaluation": lambda: answering.answer(made, examples(TEST))}
    times = interleaved(ways, 3)
    alone = times["codec without"] / times["evaluation"]
    return Row(
        f"prompts encoded as streams at window {window}, {BITS} bits a token, and decoded: share of evaluation time",
        times["streams"] / times["evaluation"],
        0.05,
        False,
        times,
        {"bits_a_token": bits, "share of the codec without streams": alone},
        f"PCA and adapter alone take {alone:.2f}: the adapter has as many FLOPs a token as this small LM",
    )
