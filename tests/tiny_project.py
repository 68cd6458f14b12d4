"""A project of tiny size, and its stages run as processes of their own that a test can watch, stop and kill."""

import os
import resource
import runpy
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection, Listener
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import mkdtemp
from threading import Thread
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
STAGES = (
    *("check", "generate_data", "uncompressed", "references"),
    *("fit_pca", "train_phase1", "train_phase2", "train_reader"),
    *("evaluate", "baselines", "diagnose"),
)
"""Stages in their order."""

OPTIONS = {"pretrain_base": ["--smoke"]}
"""What a stage's script is given on its command line."""

PHASE = {"steps": 12, "batch_size": 4, "warmup": 2, "evaluate_every": 4}
SMALL = {
    "compress_dim": 16,
    "window": 4,
    "adapter": {"detectors": 128},
    "phase1": {**PHASE, "vocabulary_share": 0.25},
    "phase2": PHASE,
    "reader": {**PHASE, "encoder": "pretrained", "tokens_per_position": 2, "pretrain_steps": 4, "steps": 8},
    "data": {
        "train": 40,
        "validation": 6,
        "test": 8,
        "quick": 6,
        "sft_records": 6,
        "phase2_sft_share": 0.25,
        "gates": {"pilot": 4, "kept": 0, "critic": 0, "length_limit": 1, "runaway": 1},
        "critic": {"instruction": -100, "pair": -100},
    },
    "generation": {"batch_size": 4},
    "baselines": {"questions": 4},
}
BRIEF = {
    "phase1": {"steps": 2, "warmup": 1, "evaluate_every": 2},
    "phase2": {"steps": 2, "warmup": 1, "evaluate_every": 2},
    "reader": {"pretrain_steps": 1, "steps": 1, "warmup": 1, "evaluate_every": 2},
    "baselines": {"questions": 2},
}
"""Where nothing is learned, as no assertion is about it: everything is trained and evaluated once."""

# Processes are forked from a server that has imported their libraries, so their time is work and not imports.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "narrowband.diagnosis.ask",
        "narrowband.diagnosis.figures",
        "narrowband.evaluation.baselines",
        "narrowband.report.charts",
        "narrowband.report.page",
        "narrowband.training.reader",
        "narrowband.training.phases",
        "narrowband.pretrain.bundled_model",
        "narrowband.sft.write",
        *("dvc.repo", "dvclive", "scipy.stats", "sklearn.cluster"),  # which stages import where they need them
    ]
)


def make_project(folder: Path, model: Path) -> None:
    """Parameters, pools and base model in `folder`, and what else the stages depend on."""
    shutil.copy(ROOT / "params.yaml", folder)
    change(folder, SMALL)
    shutil.copytree(model, folder / "models" / "base")
    shutil.copytree(ROOT / "pools", folder / "pools")
    link_code(folder)


def change(folder: Path, values: Mapping[str, Any]) -> None:
    """Change parameters in `folder`; of a section, those given."""
    path = folder / "params.yaml"
    content = yaml.safe_load(path.read_text())
    for name, value in values.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(content))


def link_code(folder: Path) -> None:
    """Put `dvc.yaml` into `folder`, the versions of packages, and links to the code that its stages depend on."""
    for name in ("dvc.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    for name in ("src", "stages"):
        (folder / name).symlink_to(ROOT / name)


def copied(folder: Path, to: Path) -> Path:
    """A copy of the project in `folder`."""
    return shutil.copytree(folder, to, symlinks=True)


def _run(
    folder: str, name: str, arguments: Sequence[str], largest_file: int, environment: Mapping[str, str], output: str
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.argv = [name, *arguments]
    if name == "narrowband":
        from narrowband.cli import main

        main()
    else:
        runpy.run_path(str(ROOT / "stages" / f"{name}.py"), run_name="__main__")


def start(
    folder: Path,
    name: str,
    arguments: Sequence[str] | None = None,
    largest_file: int = resource.RLIM_INFINITY,
    threads: int = 1,
) -> ForkServerProcess:
    """Start a stage's script, or the `narrowband` command; what it prints goes to the file `output`."""
    words = OPTIONS.get(name, []) if arguments is None else arguments
    environment = {"OMP_NUM_THREADS": str(threads)}
    process = FORKS.Process(target=_run, args=(str(folder), name, words, largest_file, environment, "output"))
    process.start()
    return process


def warm_up() -> None:
    """Wait until forks have their libraries imported, so that the time of the first is work, too."""
    process = FORKS.Process(target=bool)
    process.start()
    process.join()


@cache
def fork_server() -> str:
    """Start a thread that runs stages for `tests/forked_stage.py`; the address for its variable FORK_SERVER."""
    folder = Path(mkdtemp())
    listener = Listener(str(folder / "server"))

    def serve(connection: Connection, output: str) -> None:
        cwd, name, words, environment = connection.recv()
        process = FORKS.Process(target=_run, args=(cwd, name, words, resource.RLIM_INFINITY, environment, output))
        process.start()
        process.join()
        connection.send((Path(output).read_text(), process.exitcode))

    def listen() -> None:
        for i in count():
            Thread(target=serve, args=(listener.accept(), str(folder / f"output-{i}")), daemon=True).start()

    Thread(target=listen, daemon=True).start()
    return str(listener.address)


FORKED_STAGE = shlex.join([sys.executable, str(ROOT / "tests" / "forked_stage.py")])
"""Followed by the name of a stage, or by `narrowband` and its arguments, runs it in a fork that has its libraries imported."""


def commands() -> dict[str, str]:
    """The environment of commands in a project: this Python first, someone who commits, one thread, the server of forks."""
    who = {f"GIT_{role}_{what}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    settings = {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "FORK_SERVER": fork_server()}
    return {**os.environ, **who, **settings, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def finish(folder: Path, name: str, threads: int = 1) -> float:
    """Run a stage to its end; the seconds that it took."""
    began = time.monotonic()
    process = start(folder, name, threads=threads)
    process.join()
    assert process.exitcode == 0, (folder / "output").read_text()
    return time.monotonic() - began


def finish_all(folder: Path, threads: int = 1) -> None:
    """Run all stages in their order."""
    for name in STAGES:
        finish(folder, name, threads)


def wait_for_experiments(run: Callable[..., str], names: Iterable[str]) -> None:
    """Wait until queued experiments have committed their results; `run` runs a command in their project.

    Git tells at a hundredth of what DVC's own status takes, but not of a failure, so that is asked every 20 s.
    """
    wanted, deadline = set(names), time.monotonic() + 600
    while True:
        for _ in range(100):
            if wanted <= set(run("git", "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps").split()):
                return
            time.sleep(0.2)
        status = run("dvc", "queue", "status")
        assert "Failed" not in status and time.monotonic() < deadline, status


def contents(folder: Path) -> dict[str, bytes]:
    """All that a project's files hold, hidden ones and what was printed left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != "output")
    return {str(path): (folder / path).read_bytes() for path in paths if not any(p[0] == "." for p in path.parts)}
