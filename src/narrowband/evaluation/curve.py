"""The rate-quality curve: F1 against bits per token, of PCA with and without adapter and of the baselines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from narrowband.codec.batches import CALIBRATION_PROMPTS, embedded
from narrowband.codec.codec import Codec
from narrowband.codec.pca import PCA
from narrowband.codec.windows import cut
from narrowband.data.prompts import EncodedPrompt
from narrowband.data.squad import Example
from narrowband.evaluation.answer import System, answer
from narrowband.evaluation.baselines import RandomProjection, ScalarQuantizer, Snapped, TokenId, Truncation
from narrowband.evaluation.significance import interval
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
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


def baselines(lm: FrozenLM, pca: PCA, prompts: Sequence[EncodedPrompt], params: Params) -> list[Entry]:
    """Everything that needs no training by steps; what is fitted is fitted on the training `prompts`.

    Truncation keeps as many components as give the rate of PCA at 16 bits, and four times as many.
    """
    hidden, batch = lm.hidden_size, params.generation.batch_size
    kept = [min(hidden, times * max(1, params.compress_dim // params.window)) for times in (1, 4)]
    windows = (cut(embeddings, coded, params.window) for embeddings, coded in embedded(lm, prompts, batch))
    projection = RandomProjection.fit(windows, pca, params.window, params.seed)
    latents = {bits: Codec(pca, hidden, _with_bits(params, bits), pca_only=True) for bits in _latent_bits(params)}
    if params.magnitude == "calibrated":
        for codec in latents.values():
            codec.calibrate(embedded(lm, prompts[:CALIBRATION_PROMPTS], batch))
    token_id = TokenId(lm.vocabulary)
    return [
        *[Entry("truncation", f"first {k} of {hidden} components", Truncation(k)) for k in kept],
        Entry("random projection", f"{params.compress_dim} latents of 16 bits", projection),
        *[Entry("scalar quantiser", f"int{depth}", ScalarQuantizer(depth, hidden)) for depth in DEPTHS],
        *[Entry("pca", _latents(params, bits), codec) for bits, codec in latents.items()],
        Entry("pca snapped", _latents(params, params.latent_bits), Snapped(latents[params.latent_bits], lm.vocabulary)),
        Entry("token id", f"{token_id.depth} bits", token_id),
    ]


def adapters(lm: FrozenLM, pca: PCA, phase1: Path, phase2: Path, params: Params) -> list[Entry]:
    """Phase 1 as it was trained; Phase 2 as it was trained, and with its latents rounded to fewer bits afterwards."""
    return [
        Entry("phase1", _latents(params, params.latent_bits), Codec.load(phase1, pca, lm.hidden_size, params)),
        *[
            Entry("phase2", _latents(params, bits), Codec.load(phase2, pca, lm.hidden_size, _with_bits(params, bits)))
            for bits in _latent_bits(params)
        ],
    ]


def curve(
    lm: FrozenLM, entries: Sequence[Entry], examples: Sequence[Example], params: Params, console: Console
) -> list[dict[str, Any]]:
    """A row for each system: its rate in bits a coded token, F1 with its 95% interval, EM, and how it reconstructs."""
    rows = []
    for name, setting, system in track(entries, "systems", len(entries), console):
        result = answer(lm, system, examples, params)
        rows.append(
            {
                "system": name,
                "setting": setting,
                "bits_per_token": result.bits_per_token,
                "f1": result.f1,
                "em": result.em,
                "f1_interval": interval([score.f1 for score in result.scores], params.seed),
                **{key: result.quality[key] for key in ("cosine", "norm_ratio", "token_match")},
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
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


def _latent_bits(params: Params) -> list[int]:
    return sorted({params.latent_bits, *LATENT_BITS}, reverse=True)


def _with_bits(params: Params, bits: int) -> Params:
    return params.model_copy(update={"latent_bits": bits})


def _latents(params: Params, bits: int) -> str:
    return f"{params.compress_dim} latents of {bits} bits"
