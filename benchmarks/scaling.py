"""`make bench-scaling`: how time and memory of each stage grow with tokens, `vector_dim` and `compress_dim`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.measure import in_child, interleaved
from benchmarks.results import save
from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.pca import PCA
from narrowband.codec.token_windows import token_windows
from narrowband.data.encoded import EncodedPrompt
from narrowband.data.prompts import collate
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime.entry import console
from narrowband.runtime.parameters import load_params
from narrowband.training.losses import reconstruction_loss
from narrowband.training.phase1 import coded_tokens
from narrowband.training.phase2 import Lesson, teacher_forced

CENTRE = {"tokens": 4096, "vector_dim": 2048, "compress_dim": 128}
AXES = {"tokens": (2048, 4096, 8192), "vector_dim": (1024, 2048, 4096), "compress_dim": (64, 128, 256)}
PROMPT = 128
PASSES = 16
"""How often `fit_pca` gets the tokens, so that its products are not negligible beside its eigenvectors."""


def work(lm: FrozenLM, params: Params, tokens: int) -> dict[str, Callable[[], Any]]:
    """One unit of work of each stage on `tokens` coded tokens, in prompts of `PROMPT` tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 2000, (tokens // PROMPT, PROMPT), generator=generator).tolist()
    prompts = [EncodedPrompt(row, [True] * PROMPT, truncated=False) for row in ids]
    width = params.vector_dim(lm.hidden_size)
    pca = PCA(
        torch.eye(width)[: params.compress_dim].contiguous(),
        torch.zeros(width),
        torch.ones(params.compress_dim),
        torch.ones(1) * width,
    )
    codec = Codec(pca, CodecConfig.of(params))
    batch = collate(prompts, lm.pad_id)
    vectors, windows = token_windows(lm, prompts, params.window)

    def phase1() -> None:
        reconstruction_loss(coded_tokens(lm, codec, batch), params.loss.phase1).loss.backward()

    def phase2() -> None:
        answers, _ = teacher_forced(lm, codec, [Lesson(prompt, [5, 6, 7]) for prompt in prompts])
        answers.student.square().mean().backward()

    @torch.no_grad()
    def evaluate() -> None:
        lm.generate(codec(lm.embed(batch.ids), batch.coded), batch.mask, params.generation.max_new_tokens)

    return {
        "fit_pca": lambda: PCA.fit(vectors, params.compress_dim, windows.repeat(PASSES, 1)),
        "train_phase1": phase1,
        "train_phase2": phase2,
        "evaluate": evaluate,
    }


def measure(stage: str, tokens: int, vector_dim: int, compress_dim: int) -> dict[str, float]:
    """Least seconds of a unit of work of `stage`."""
    params = load_params()
    lm = FrozenLM.load(params.base_model)
    changes = {"window": vector_dim // lm.hidden_size, "compress_dim": compress_dim}
    return interleaved({"best": work(lm, params.model_copy(update=changes), tokens)[stage]}, 3)


def idle() -> None:
    """Do nothing, to measure the imports alone."""


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Slope of the logarithm of `values` over that of `sizes`."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    """Print and save the exponents."""
    imports = in_child("benchmarks.scaling", "idle")["peak_bytes"]
    content: dict[str, dict[str, dict[str, float]]] = {}
    rows = []
    for stage in ("fit_pca", "train_phase1", "train_phase2", "evaluate"):
        content[stage] = {}
        for axis, sizes in AXES.items():
            found = [in_child("benchmarks.scaling", "measure", stage, *{**CENTRE, axis: n}.values()) for n in sizes]
            content[stage][axis] = {
                "time": exponent(sizes, [point["best"] for point in found]),
                "memory": exponent(sizes, [point["peak_bytes"] - imports for point in found]),
            }
            rows.append([stage, axis, *(f"{value:.2f}" for value in content[stage][axis].values())])
            console.print(*rows[-1], sep="  ", highlight=False)
    save("scaling", content, ["stage", "grows with", "exponent of time", "exponent of memory"], rows)


if __name__ == "__main__":
    main()
