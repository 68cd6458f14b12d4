"""The rate-quality curve: F1 against bits per token, of PCA with and without adapter and of the baselines."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from narrowband.codec.batches import embedded
from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.windows import cut
from narrowband.data.prompts import EncodedPrompt
from narrowband.data.squad import Example
from narrowband.evaluation.answer import QuestionAnswerer, System
from narrowband.evaluation.baselines import RandomProjection, ScalarQuantizer, Snapped, TokenId, Truncation
from narrowband.evaluation.significance import interval
from narrowband.runtime.progress import track

DEPTHS = (8, 4, 2, 1)
"""Bits a component of the scalar quantiser; with 1, its rate is about that of PCA latents at 16x."""

LATENT_BITS = (16, 8, 4)
"""Bits a latent of PCA and of Phase 2, beside `latent_bits` itself."""


class Entry(NamedTuple):
    """A system, with its name and what sets it apart from others of that name."""

    name: str
    setting: str
    system: System


def baselines(answerer: QuestionAnswerer, pca_codec: Codec, train: Sequence[EncodedPrompt], seed: int) -> list[Entry]:
    """Everything that needs no training by steps; what is fitted is fitted on the training prompts.

    `pca_codec` is the PCA without adapter. Truncation keeps as many components as give the rate of PCA at 16 bits, and
    four times as many.
    """
    lm, pca, config = answerer.lm, pca_codec.pca, pca_codec.config
    hidden = lm.hidden_size
    kept = [min(hidden, times * max(1, config.compress_dim // config.window)) for times in (1, 4)]
    windows = (cut(embeddings, coded, config.window) for embeddings, coded in embedded(lm, train, answerer.batch_size))
    projection = RandomProjection.fit(windows, pca, config.window, seed)
    latents = [(bits, pca_codec.with_latent_bits(bits)) for bits in _latent_bits(config)]
    token_id = TokenId(lm.vocabulary)
    return [
        *[Entry("truncation", f"first {k} of {hidden} components", Truncation(k)) for k in kept],
        Entry("random projection", f"{config.compress_dim} latents of 16 bits", projection),
        *[Entry("scalar quantiser", f"int{depth}", ScalarQuantizer(depth, hidden)) for depth in DEPTHS],
        *[Entry("pca", _latents(config, bits), codec) for bits, codec in latents],
        Entry("pca snapped", _latents(config, config.latent_bits), Snapped(pca_codec, lm.vocabulary)),
        Entry("token id", f"{token_id.depth} bits", token_id),
    ]


def adapters(phase1: Codec, phase2: Codec) -> list[Entry]:
    """Phase 1 as it was trained; Phase 2 as it was trained, and with its latents rounded to fewer bits afterwards."""
    config = phase2.config
    return [
        Entry("phase1", _latents(config, config.latent_bits), phase1),
        *[Entry("phase2", _latents(config, bits), phase2.with_latent_bits(bits)) for bits in _latent_bits(config)],
    ]


def curve(
    answerer: QuestionAnswerer, entries: Sequence[Entry], examples: Sequence[Example], seed: int, console: Console
) -> list[dict[str, Any]]:
    """A row for each system: its rate in bits a coded token, F1 with its 95% interval, EM, and how it reconstructs."""
    rows = []
    for name, setting, system in track(entries, "systems", len(entries), console):
        result = answerer.answer(system, examples)
        rows.append(
            {
                "system": name,
                "setting": setting,
                "bits_per_token": result.bits_per_token,
                "f1": result.f1,
                "em": result.em,
                "f1_interval": interval([score.f1 for score in result.scores], seed),
                **{key: result.quality[key] for key in ("cosine", "norm_ratio", "token_match")},
            }
        )
    return rows


def curve_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows, highest rate first."""
    shown = Table("system", "setting")
    for column in ("bits per token", "F1", "95% interval", "cosine", "token match"):
        shown.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: -row["bits_per_token"]):
        shown.add_row(
            row["system"],
            row["setting"],
            f"{row['bits_per_token']:.0f}",
            f"{row['f1']:.1f}",
            "{low:.1f} to {high:.1f}".format(**row["f1_interval"]),
            f"{row['cosine']:.3f}",
            f"{row['token_match']:.1f}",
        )
    return shown


def _latent_bits(config: CodecConfig) -> list[int]:
    return sorted({config.latent_bits, *LATENT_BITS}, reverse=True)


def _latents(config: CodecConfig, bits: int) -> str:
    return f"{config.compress_dim} latents of {bits} bits"
