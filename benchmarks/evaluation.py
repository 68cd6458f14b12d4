"""Evaluation: batched answers against one by one, and the cost of the codec relative to generation."""

import torch

from benchmarks import reference
from benchmarks.measure import Row, flops, interleaved, matmul_peak, seconds
from benchmarks.setting import answerer, base_lm, codec, examples, prompts, prompts_after, setting
from narrowband.codec.folded import FoldedCodec
from narrowband.data.prompts import collate
from narrowband.evaluation.answer import batches_by_length
from narrowband.evaluation.reconstruction import Quality
from narrowband.lm.stop import Reply

QUESTIONS, ALONE = 256, 32
"""Questions answered in batches and one by one."""

SHOTS, AFTER = 2, 64
"""Worked examples before each question, and questions answered after them: one batch."""

TEST = 1000
"""Questions of the committed test split, over which the folded table is shared."""


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


def shared_examples() -> Row:
    """Answers after worked examples, whose keys and values are computed once or with every prompt."""
    lm, generation = base_lm(), setting(16).generation
    asked = prompts_after(SHOTS, AFTER)
    batches = [collate([asked[i] for i in rows], lm.pad_id) for rows in batches_by_length(asked, generation.batch_size)]
    originals = [lm.embed(batch.ids) for batch in batches]

    def answers(*, share: bool) -> list[list[Reply]]:
        return [
            lm.generate(original, batch.mask, generation.max_new_tokens, shared=batch.shared if share else ())
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
    batches = [
        collate([asked[i] for i in rows], lm.pad_id) for rows in batches_by_length(asked, params.generation.batch_size)
    ]
    originals = [lm.embed(batch.ids) for batch in batches]

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
