"""The training and evaluation stages at the geometry of Llama-3.1-8B, random weights saved to disk: time, memory, speed.

    python -m benchmarks.geometry_8b /scratch/8b            # 17 GB of disk, one GPU of 80 GB
    python -m benchmarks.geometry_8b /tmp/small --smoke     # two small blocks, on a CPU too

Random weights answer nothing, so scores mean nothing here; times and bytes are those of any weights whose answers are as
long as `generation.max_new_tokens`.
"""

import json
import os
import re
import runpy
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from rich.table import Table
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.measure import flops, matmul_peak, seconds
from benchmarks.setting import phase_loss
from narrowband.codec.codec import Codec
from narrowband.data.prompts import collate
from narrowband.data.settled import asked_for, with_examples, write_settled
from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad
from narrowband.evaluation.answer import QuestionAnswerer
from narrowband.lm.frozen import FrozenLM
from narrowband.params import Params
from narrowband.runtime import paths
from narrowband.runtime.artifacts import write_config
from narrowband.runtime.entry import console, set_up_torch
from narrowband.runtime.files import write_json, write_text
from narrowband.runtime.parameters import load_params
from narrowband.training.draws import Draws
from narrowband.training.phase2 import Lesson
from narrowband.training.phases import read_lessons

ROOT = Path(__file__).parent.parent
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 3000,
}
QUESTIONS = {"train": 512, "validation": 16, "test": 64}
SMALL_QUESTIONS = {"train": 16, "validation": 2, "test": 2}
STAGES = ("uncompressed", "fit_pca", "train_phase1", "train_phase2", "evaluate")
REPETITIONS = 5

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.geometry_8b", "narrowband.training.phases"])
"""A server of processes in which libraries are imported once."""


def settings(smoke: bool) -> Params:
    """The original run's setting, 4x at window 1, for a few steps; small numbers of everything for a smoke test."""
    params = load_params(ROOT / "params.yaml")
    hidden = (SMALL if smoke else LLAMA_8B)["hidden_size"]
    steps = {"steps": 2 if smoke else 8, "evaluate_every": 2 if smoke else 8}
    size = {"batch_size": 4, "micro_batch": 2} if smoke else {"batch_size": 16, "micro_batch": 8}
    return params.model_copy(
        update={
            "base_model": "model",
            "window": 1,
            "compress_dim": hidden // 4,
            "phase1": params.phase1.model_copy(update={**steps, **size}),
            "phase2": params.phase2.model_copy(update={**steps, **size}),
            "data": params.data.model_copy(update={"sft_records": 0}),
            "generation": params.generation.model_copy(update={"batch_size": 2 if smoke else 32}),
        }
    )


def prepare(folder: Path, geometry: dict[str, Any], questions: dict[str, int], params: Params) -> None:
    """Write everything that the first of `STAGES` depends on into `folder`; an existing model is kept."""
    write_text(folder / "params.yaml", yaml.safe_dump(params.model_dump()))
    for name in ("dvc.yaml", "requirements.lock", "src", "stages"):
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / name)
    for split, n in questions.items():
        write_squad(folder / paths.QA / f"{split}.json", split, [world_example(0, split, i) for i in range(n)])
    write_settled(with_examples(params.prompt, []).model_copy(update={"bos": "text"}), folder / paths.QA)
    write_config(folder / paths.QA, asked_for(params.prompt))
    write_text(folder / paths.SFT / "train.jsonl", "")
    write_json(folder / paths.CHECKED, {})
    if (folder / "model" / "config.json").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "base")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"] |= {f"unused {i}": i for i in range(len(tokenizer), geometry["vocab_size"])}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**geometry, dtype="bfloat16")).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def fresh(folder: Path, work: Callable[..., dict[str, Any]], *arguments: str) -> dict[str, Any]:
    """Run `work` in a new process in `folder`; return its result with wall time and peak memory."""
    with ProcessPoolExecutor(1, mp_context=FORKS) as pool:
        return pool.submit(_measured, folder, work, arguments).result()


def _measured(folder: Path, work: Callable[..., dict[str, Any]], arguments: tuple[str, ...]) -> dict[str, Any]:
    os.chdir(folder)
    began = time.perf_counter()
    found = work(*arguments)
    return {"seconds": time.perf_counter() - began, "peak_gb": peak_bytes() / 1e9, **found}


def peak_bytes() -> int:
    """Peak memory of tensors on the GPU, or else of this process (Linux)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def run_stage(name: str) -> dict[str, Any]:
    """Run a stage as `dvc repro` does."""
    runpy.run_path(str(ROOT / "stages" / f"{name}.py"))["main"]()
    return {}


def measure_speed() -> dict[str, Any]:
    """Tokens a second and MFU of a step of each phase, and of answering a batch of questions.

    MFU = FLOPs of matrix products and attentions, as torch counts them, / (wall time x FLOPs a second of a square product on
    this device in the model's precision).
    """
    set_up_torch()
    params = of_a_micro_batch(load_params())
    generation = params.generation
    lm = FrozenLM.load(params.base_model)
    answerer = QuestionAnswerer(lm, params.prompt, generation.max_new_tokens, generation.batch_size, generation.stop)
    codec = Codec.load(paths.PHASE1, lm.device).train()
    lessons = read_lessons(answerer, paths.QA / "train.json")

    def drawn(size: int) -> list[Lesson]:
        return Draws(params.seed, size).batch(lessons, 0)

    few = [lesson.prompt for lesson in drawn(generation.batch_size)]
    batch = collate(few, lm.pad_id)
    loss1, loss2 = (phase_loss(phase, lm, codec, lessons, params) for phase in ("phase1", "phase2"))
    peak = matmul_peak(8192 if lm.device.type == "cuda" else 1024, REPETITIONS, lm.model.dtype, lm.device)
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "phase1": (
            lambda: loss1(0).loss.backward(),
            sum(len(lesson.prompt.ids) for lesson in drawn(params.phase1.batch_size)),
        ),
        "phase2": (
            lambda: loss2(0).loss.backward(),
            sum(len(one.prompt.ids) + len(one.answer) - 1 for one in drawn(params.phase2.batch_size)),
        ),
        "answers": (
            lambda: answerer.generate(codec(lm.embed(batch.ids), batch.coded), batch.mask),
            sum(len(prompt.ids) + generation.max_new_tokens for prompt in few),
        ),
    }
    found = {}
    for name, (run, tokens) in runs.items():
        work, least = flops(run), min(seconds(run) for _ in range(REPETITIONS))
        found[name] = {"tokens_a_second": tokens / least, "mfu": work / least / peak}
    return {"matmul_tflops_a_second": peak / 1e12, "speed": found}


def of_a_micro_batch(params: Params) -> Params:
    """`params` with batches as large as a micro-batch, which is what a step computes at a time."""
    small = {
        name: phase.model_copy(update={"batch_size": phase.micro_batch})
        for name, phase in (("phase1", params.phase1), ("phase2", params.phase2))
    }
    return params.model_copy(update=small)


def main(
    folder: Annotated[Path, typer.Argument(help="Where model, artifacts and results go.")],
    smoke: Annotated[bool, typer.Option("--smoke", help="A model of two small blocks.")] = False,
) -> None:
    """Run the stages in FOLDER, each in a process of its own; a table, and FOLDER/results.json."""
    geometry, questions = (SMALL, SMALL_QUESTIONS) if smoke else (LLAMA_8B, QUESTIONS)
    params = settings(smoke)
    prepare(folder, geometry, questions, params)
    stages = {name: fresh(folder, run_stage, name) for name in STAGES}
    speed = fresh(folder, measure_speed)
    shown = Table("stage", "seconds", "peak GB")
    for name, found in stages.items():
        shown.add_row(name, f"{found['seconds']:.3g}", f"{found['peak_gb']:.3g}")
    console.print(shown)
    shown = Table("step", "tokens/s", "MFU")
    for name, found in speed["speed"].items():
        shown.add_row(name, f"{found['tokens_a_second']:.0f}", f"{found['mfu']:.1%}")
    console.print(shown)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    write_json(folder / "results.json", {"device": device, "stages": stages, **speed})


if __name__ == "__main__":
    typer.run(main)
