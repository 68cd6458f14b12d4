"""`make bench-real`: steps of both phases and reading prompts, on a real model, against what they take at least.

The model is Gemma 3 270M at 16x, as its profile has it, on questions of the file in `DATA`; `make test-real` fetches the model.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from benchmarks.measure import HEADER, Row, flops, in_child, interleaved, matmul_peak, resident
from benchmarks.results import save
from benchmarks.setting import DATA, phase_loss, without_zeros
from benchmarks.training import stepper
from narrowband.codec.codec import Codec
from narrowband.codec.config import CodecConfig
from narrowband.codec.fitting import fit_pca
from narrowband.data.prompts import SettledPrompt, collate, encode_answer, encode_prompts
from narrowband.data.settled import draw_shots, with_examples
from narrowband.data.squad import read_squad
from narrowband.experiments.profiles import profile_params
from narrowband.lm.base_model import load_tokenizer
from narrowband.lm.device import mixed_precision, multiplies_in_bfloat16
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.rows import KnownTokens
from narrowband.params import Params
from narrowband.runtime.entry import console, set_up_torch
from narrowband.training.micro_batches import own_parts
from narrowband.training.phase2 import Lesson, Material, answer_logits, lay_out, phase2_loss

PROFILE = "gemma-3-270m"
FILE = DATA / "nq_oracle.json"
QUESTIONS = 200
"""Training questions that the PCA is fitted to and batches are drawn from."""

TEACHER_TOP_K = 64
REPETITIONS = 3


class Setting(NamedTuple):
    """A real model as its profile has it, a codec at the profile's ratio, and questions with their answers."""

    params: Params
    lm: FrozenLM
    codec: Codec
    lessons: list[Lesson]


@cache
def setting() -> Setting:
    """Load the model, and fit the codec's PCA; its adapter is random."""
    params = profile_params(PROFILE)
    changes = {"teacher_top_k": TEACHER_TOP_K, "steps": 1}
    params = params.model_copy(update={"phase2": params.phase2.model_copy(update=changes)})
    lm = FrozenLM.load(params.base_model)
    drawn = draw_shots(read_squad(FILE)[:QUESTIONS], params.prompt.shots, params.seed)
    prompt: SettledPrompt = with_examples(params.prompt, drawn.shots).model_copy(update={"bos": "text"})
    prompts = encode_prompts(lm.tokenizer, drawn.train, prompt)
    answers = [encode_answer(lm.tokenizer, one.golds[0]) for one in drawn.train]
    pca = fit_pca(lm, prompts, params.compress_dim, params.window)
    codec = without_zeros(Codec(pca, CodecConfig.of(params), seed=params.seed))
    lessons = [Lesson(*pair) for pair in zip(prompts, answers, strict=True)]
    return Setting(params, lm, codec.train(), lessons)


def phase1_step() -> Row:
    """Phase 1, on the distinct tokens of a batch."""
    params, lm, codec, lessons = setting()
    step = in_stage(stepper(codec, phase_loss("phase1", lm, codec, lessons, params)))
    return against_peak("Phase 1 step", step, torch.bfloat16 if multiplies_in_bfloat16() else torch.float32)


def phase2_step() -> Row:
    """Phase 2 with the teacher kept, against the frozen model's forward and backward on the same micro-batches."""
    params, lm, codec, lessons = setting()
    parts = own_parts(params.phase2.batch_size, params.phase2.micro_batch)
    material = Material(lessons, params.seed)
    loss = phase2_loss(lm, codec, material, params.phase2, params.loss)
    drawn = [lessons[i] for i in material.drawn(0, params.phase2.batch_size)]
    drawn.sort(key=lambda one: len(one.prompt.ids))
    rows = [lay_out(lm, part.of(drawn)) for part in parts]

    def frozen() -> None:
        for few in rows:
            embeddings = lm.embed(few.batch.ids).requires_grad_()
            answer_logits(lm, embeddings, few).square().mean().backward()

    def all_parts(step: int) -> None:
        for part in parts:
            loss(step, part).loss.backward()

    runs = {"step": in_stage(lambda: all_parts(0)), "frozen LM": in_stage(frozen)}
    times = interleaved(runs, REPETITIONS)
    tokens = sum(few.batch.ids.numel() for few in rows)
    return Row(
        f"Phase 2 step of {len(drawn)} prompts, with phase2.teacher_top_k: {TEACHER_TOP_K}, against the frozen LM's forward and "
        "backward to its inputs",
        times["step"] / times["frozen LM"],
        1.3,
        False,
        times,
        {"tokens, worked examples left out": float(tokens)},
    )


def prefill() -> Row:
    """Reading prompts in evaluation."""
    params, lm, _, lessons = setting()
    batch = collate([one.prompt for one in lessons[: params.generation.batch_size]], lm.pad_id)
    embeddings = lm.embed(batch.ids)

    @torch.no_grad()
    def read() -> None:
        lm.generate(embeddings, batch.mask, 1, known=KnownTokens(batch.shared))

    return against_peak(f"reading {len(batch.ids)} prompts of an evaluation", read, torch.float32)


def memory() -> Row:
    """Peak memory of a Phase 2 step."""
    found = in_child("benchmarks.real", "step_memory")
    needed = found["weights"] + found["kept"]
    used = found["peak_bytes"] - found["imports"]
    return Row(
        "peak memory of a Phase 2 step, against weights and what autograd keeps of a micro-batch",
        used / needed,
        1.3,
        False,
        {"whole process": found["seconds"]},
        {f"{name} GiB": found[name] / 2**30 for name in ("peak_bytes", "imports", "tokenizer", "weights", "kept")},
        f"without the tokenizer's {found['tokenizer'] / 2**30:.2f} GiB it is {(used - found['tokenizer']) / needed:.2f}",
    )


def step_memory() -> dict[str, float]:
    """Bytes of imports, of the tokenizer, of all weights, and of what a micro-batch's backward pass needs beside them."""
    set_up_torch()
    imports = resident()
    tokenizer = load_tokenizer(profile_params(PROFILE).base_model)
    with_tokenizer = resident()
    del tokenizer
    params, lm, codec, lessons = setting()
    loss = phase2_loss(lm, codec, Material(lessons, params.seed), params.phase2, params.loss)
    weights = {p.data_ptr(): p.nbytes for module in (lm.model, codec) for p in module.parameters()}
    most = 0.0
    for part in own_parts(params.phase2.batch_size, params.phase2.micro_batch):
        kept: dict[int, int] = {}

        def count(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), mixed_precision():
            found = loss(0, part)
        found.loss.backward()
        most = max(most, sum(size for place, size in kept.items() if place not in weights))
    return {"imports": imports, "tokenizer": with_tokenizer - imports, "weights": sum(weights.values()), "kept": most}


def in_stage(run: Callable[[], object]) -> Callable[[], None]:
    """`run` in the precision of a training stage."""

    def wrapped() -> None:
        with mixed_precision():
            run()

    return wrapped


def against_peak(what: str, run: Callable[[], object], dtype: torch.dtype) -> Row:
    """The share of the matmul peak in `dtype` that `run` reaches."""
    work, peak = flops(run), matmul_peak(dtype=dtype)
    times = interleaved({"time": run}, REPETITIONS)
    peak = max(peak, matmul_peak(dtype=dtype))
    return Row(
        f"{what}: matmul FLOPs over time x matmul peak ({str(dtype).removeprefix('torch.')})",
        work / times["time"] / peak,
        0.6,
        True,
        times,
        {"gflops": work / 1e9, "peak_gflops_a_second": peak / 1e9},
    )


def main() -> None:
    """Measure, and write the rows to `benchmarks/results.json` and `docs/performance.md`."""
    set_up_torch()
    rows = {run.__name__: run() for run in (phase1_step, phase2_step, prefill, memory)}
    for row in rows.values():
        console.print(*row.cells, sep="  ", highlight=False)
    save("real", {name: row.content for name, row in rows.items()}, HEADER, [row.cells for row in rows.values()])


if __name__ == "__main__":
    main()
