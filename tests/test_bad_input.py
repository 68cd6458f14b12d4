"""A table of bad input: each ends in exit code 2 and one sentence, without a traceback, and loses nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import BRIEF, change, contents, copied, finish_all, make_project, start

from narrowband.data.splits import world_example
from narrowband.data.squad import write_squad

Change = Callable[[Path], None]


def params(**values: Any) -> Change:
    """Set parameters; a double underscore stands for a dot."""

    def change(folder: Path) -> None:
        path = folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for name, value in values.items():
            *sections, last = name.split("__")
            section = content
            for key in sections:
                section = section[key]
            section[last] = value
        path.write_text(yaml.safe_dump(content))

    return change


def wrote(name: str, content: str | bytes) -> Change:
    """Put something else in the place of a file."""
    return lambda folder: void((folder / name).write_bytes(content.encode() if isinstance(content, str) else content))


def cut(name: str, size: int) -> Change:
    return lambda folder: void((folder / name).write_bytes((folder / name).read_bytes()[:size]))


def flipped(name: str, place: int) -> Change:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return change


def removed(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def made_folder(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def void(_: object) -> None:
    return None


def nothing(folder: Path) -> None:
    pass


def qa(context: Any = "red fox", **changes: Any) -> Change:
    """A data set of one question."""
    entry = {"id": "1", "question": "q", "answers": [{"text": "fox", "answer_start": 4}], **changes}
    kept = {key: value for key, value in entry.items() if value is not ...}
    return wrote("qa.json", json.dumps({"data": [{"paragraphs": [{"context": context, "qas": [kept]}]}]}))


def model(change: Change) -> Change:
    """Make the folder of `models/bad` a damaged copy of the base model, and use it."""

    def changed(folder: Path) -> None:
        shutil.copytree(folder / "models/base", folder / "models/bad")
        change(folder)
        params(base_model="models/bad")(folder)

    return changed


def pool(name: str, content: str) -> Change:
    return wrote(f"pools/{name}.yaml", content)


def profile(content: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "profiles").mkdir()
        (folder / "profiles/mine.yaml").write_text(content)

    return change


EXAMPLE = "- {id: a, category: b, instruction: c, completion: d}\n"
TABLE: list[tuple[str, Change, str]] = [
    # params.yaml
    ("check", params(compress_dim=129), "compress_dim 129 is more than vector_dim 128 (window 4 x hidden 32)"),
    (
        "check",
        params(reader__depth=1, reader__encoder="embeddings"),
        "reader.depth 1 counts blocks, and reader.encoder embeddings has none",
    ),
    (
        "check",
        params(phase2__teacher_top_k=512),
        "phase2.teacher_top_k 512 leaves no other tokens in a vocabulary of 512",
    ),
    ("check", params(reader__depth=3), "reader.depth 3 is more than the 2 blocks of the base model; choose 0 to 2"),
    ("check", params(compres_dim=16), "unknown parameter compres_dim; did you mean compress_dim?"),
    (
        "check",
        params(source="block-0"),
        "source is 'block-0', which should be embeddings, or block-1, block-2 and so on",
    ),
    ("check", params(source="block-2", reader__tokens_per_position=1), "leaves no block after the codec, as the base"),
    ("check", params(source="block-1"), "source block-1 can't be combined with reader.tokens_per_position 2"),
    ("check", params(window=513), "window 513 is more than prompt.max_length 512"),
    ("check", params(seed=-1), "seed is -1"),
    ("check", params(seed=10**20), "seed is 100000000000000000000"),
    ("check", params(phase1__lr=float("inf")), "phase1.lr is inf, which should be a number"),
    ("check", params(phase2__steps=0), "phase2.steps is 0"),
    ("check", params(phase2__warmup=-1), "phase2.warmup is -1"),
    ("check", params(loss__phase2__kl_temperature=0), "loss.phase2.kl_temperature is 0"),
    ("check", params(adapter=None), "adapter is None"),
    ("check", params(data__few_shot_pool=""), "data.few_shot_pool is ''"),
    ("check", params(generation__backend="vllm"), "generation.backend vllm needs vLLM"),
    ("check", params(data__sft_records=0, data__phase2_sft_share=0.5), "needs at least 2 SFT records"),
    ("check", params(dataset="nowhere.json"), "nowhere.json does not exist"),
    ("check", params(dataset="nowhere"), "dataset nowhere does not exist"),
    ("check", wrote("params.yaml", ""), "params.yaml holds NoneType, not a mapping"),
    ("check", wrote("params.yaml", "seed: [0"), "params.yaml is not valid YAML"),
    ("check", wrote("params.yaml", b"\xff\xfe\x00"), "params.yaml is not text"),
    ("check", wrote("params.yaml", "seed: !!python/object/apply:os.getcwd []"), "params.yaml is not valid YAML"),
    ("check", wrote("params.yaml", "seed: 2001-99-99"), "params.yaml is not valid YAML"),
    ("check", wrote("params.yaml", "a: &a [*a]"), "params.yaml: unknown parameter a"),
    ("check", wrote("params.yaml", "[" * 3000), "params.yaml is not valid YAML"),
    ("check", wrote("params.yaml", "1: 2"), "params.yaml: unknown parameter 1"),
    ("check", removed("params.yaml"), "params.yaml does not exist"),
    ("check", made_folder("params.yaml"), "params.yaml can't be read"),
    # The data set
    ("check", wrote("qa.json", ""), "QA file qa.json is not JSON"),
    ("check", wrote("qa.json", b"\xff{}"), "QA file qa.json is not in UTF-8 (byte 0xff in line 1"),
    ("check", wrote("qa.json", "[" * 100_000), "QA file qa.json is nested more than"),
    ("check", wrote("qa.json", '{"data": 3}'), "QA file qa.json holds no question in the SQuAD schema"),
    ("check", wrote("qa.json", '{"data": []}'), "QA file qa.json holds no question"),
    ("check", qa(id=...), "is not of the SQuAD schema (KeyError: 'id')"),
    ("check", qa(id=[1]), "[1] is not of type str"),
    ("check", qa(context=3), "3 is not of type str"),
    ("check", qa(context="\ud800 fox"), "is not at 4 in its context"),
    ("check", qa(question=None), "None is not of type str"),
    ("check", qa(answers=[]), "question 1 has no answer"),
    ("check", qa(answers=[{"text": "", "answer_start": 0}]), "an answer of question 1 is empty"),
    ("check", qa(answers=[{"text": "fox", "answer_start": -3}]), "is not at -3"),
    ("check", qa(answers=[{"text": "fox", "answer_start": True}]), "True is not of type int"),
    ("check", qa(answers=[{"text": "fox", "answer_start": 3}]), "answer 'fox' of question 1 is not at 3"),
    ("check", qa(), "leaves the"),
    ("check", removed("qa.json"), "qa.json does not exist"),
    # Pools of instructions
    ("check", pool("few_shot", "3"), "pools/few_shot.yaml: the file is 3, but the file must be a list of id,"),
    ("check", pool("few_shot", "a: ["), "pools/few_shot.yaml is not YAML ("),
    ("check", pool("few_shot", EXAMPLE), "pools/few_shot.yaml has 1 examples"),
    ("check", pool("few_shot", EXAMPLE * 6), "pools/few_shot.yaml has 6 examples, 1 of them distinct"),
    ("check", pool("few_shot", EXAMPLE.replace("c", "4")), "pools/few_shot.yaml"),
    ("check", removed("pools/few_shot.yaml"), "few-shot pool pools/few_shot.yaml does not exist"),
    ("check", pool("instructions", "a: ["), "instruction pool pools/instructions.yaml is not YAML"),
    ("check", pool("instructions", "- {category: a, forms: [], topics: [b]}"), "pools/instructions.yaml: 0.forms"),
    ("check", removed("pools/instructions.yaml"), "instruction pool pools/instructions.yaml does not exist"),
    # The base model
    ("check", params(base_model=""), "base_model is ''"),
    ("check", params(base_model="models/nowhere"), "base_model models/nowhere does not exist; give a folder"),
    ("check", model(removed("models/bad/config.json")), "base_model models/bad is not a model folder"),
    ("check", model(wrote("models/bad/config.json", "{")), "base_model models/bad"),
    ("check", model(wrote("models/bad/config.json", '{"model_type": "t5"}')), "not a causal LM"),
    ("check", model(removed("models/bad/tokenizer.json")), "base_model models/bad has no tokenizer"),
    ("check", model(wrote("models/bad/tokenizer.json", "{}")), "base_model models/bad"),
    ("fit_pca", model(removed("models/bad/model.safetensors")), "base_model models/bad"),
    ("fit_pca", model(cut("models/bad/model.safetensors", 1000)), "base_model models/bad"),
    ("generate_data", model(cut("models/bad/model.safetensors", -1)), "base_model models/bad"),
    # What earlier stages wrote
    ("fit_pca", flipped("data/qa/train.json", 500), "data/qa/train.json is not the file that was written"),
    ("fit_pca", removed("data/qa/config.json"), "data/qa is not complete (it has no config.json)"),
    (
        "train_phase1",
        cut("artifacts/pca/pca.safetensors", 100),
        "artifacts/pca/pca.safetensors is not the file that was written",
    ),
    ("train_phase1", flipped("artifacts/pca/config.json", 20), "artifacts/pca/config.json"),
    ("train_phase1", params(window=8), "artifacts/pca was made with window 4, not 8"),
    ("train_phase1", params(source="block-1"), "artifacts/pca was made with source embeddings, not block-1"),
    ("train_phase2", params(source="block-2"), "source block-2 leaves no block after the codec"),
    ("train_phase2", cut("artifacts/phase1/adapter.safetensors", -1), "artifacts/phase1/adapter.safetensors"),
    ("train_phase2", params(magnitude="token"), "artifacts/phase1 was made with magnitude none, not token"),
    ("train_phase2", cut("data/sft/train.jsonl", -5), "data/sft/train.jsonl is not the file that was written"),
    ("evaluate", removed("artifacts/phase2/config.json"), "artifacts/phase2 is not complete"),
    (
        "evaluate",
        flipped("artifacts/phase2/adapter.safetensors", -1),
        "artifacts/phase2/adapter.safetensors is not the file",
    ),
    ("evaluate", model(flipped("models/bad/model.safetensors", -1)), "made with base_model_revision sha256:"),
    (
        "evaluate",
        flipped("artifacts/uncompressed/test/answers.json", 30),
        "answers.json is not the file that was written",
    ),
    (
        "evaluate",
        params(generation__max_new_tokens=3),
        "artifacts/uncompressed/test was made with max_new_tokens 16, not 3",
    ),
    (
        "baselines",
        params(latent_coding__bits_per_token=8),
        "artifacts/references was made with bits_per_token 32.0, not 8.0",
    ),
    ("baselines", params(compress_dim=8), "artifacts/pca was made with compress_dim 16, not 8"),
    (
        "diagnose",
        flipped("artifacts/evaluate/predictions_pca.json", 30),
        "predictions_pca.json is not the file that was written",
    ),
    ("diagnose", params(generation__max_new_tokens=3), "artifacts/evaluate was made with max_new_tokens 16, not 3"),
    ("diagnose", wrote("metrics/evaluate.json", "{"), "metrics/evaluate.json is not JSON"),
    ("diagnose", wrote("metrics/evaluate.json", "{}"), "metrics/evaluate.json is not what this version of its stage"),
    ("diagnose", wrote("results/evaluate.json", "{}"), "results/evaluate.json is not what this version of its stage"),
    ("diagnose", wrote("results/baselines.json", "[]"), "results/baselines.json is not what this version of its stage"),
    ("diagnose", wrote("results/baselines.json", '{"rows": [{}]}'), "results/baselines.json is not what this version"),
    ("diagnose", wrote("artifacts/log/phase1/evaluations.csv", "step,f1\n0,x\n"), "evaluations.csv"),
    ("diagnose", removed("artifacts/log/phase2/evaluations.csv"), "artifacts/log/phase2/evaluations.csv"),
    (
        "train_phase1",
        wrote(".checkpoints/phase1.safetensors", "{}"),
        "checkpoint .checkpoints/phase1.safetensors is damaged",
    ),
    # Options of commands
    ("narrowband show nowhere", nothing, "no metrics at revision nowhere"),
    ("narrowband verify", nothing, "metrics/tolerance.yaml"),
    ("narrowband verify --rev nowhere", wrote("metrics/tolerance.yaml", "'*': 1"), "no metrics at revision nowhere"),
    ("narrowband hypotheses", nothing, "docs/hypotheses.yaml can't be read"),
    ("narrowband ask --context= --question=x", nothing, "--context and --question must hold text"),
    ("narrowband ask --context=a --question=b", removed("params.yaml"), "params.yaml does not exist"),
    ("narrowband ask --context=a --question=b", removed("artifacts/pca/config.json"), "artifacts/pca is not complete"),
    (
        "narrowband ask --context=a --question=b",
        params(source="block-1"),
        "narrowband ask needs source embeddings, not",
    ),
    (
        "narrowband decode question.nb",
        params(source="block-1"),
        "narrowband encode and decode need source embeddings, not",
    ),
    (f"narrowband ask --context=a --question={'why ' * 600}", nothing, "leaves no room for a question of"),
    ("narrowband profile list", nothing, "there is no profiles/NAME.yaml here"),
    ("narrowband profile list", profile(""), "profiles/mine.yaml holds NoneType, not a mapping"),
    ("narrowband profile use mine", profile("about: ["), "profiles/mine.yaml can't be read as YAML"),
    ("narrowband profile use mine", profile("params: {}"), "profiles/mine.yaml: parameter about is missing; add it"),
    ("check", made_folder("artifacts/checked"), "checked: Is a directory"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Path:
    """A project in which all that the table's commands read has been made, from a SQuAD file."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    folder.mkdir()
    make_project(folder, stopping_model)
    write_squad(folder / "qa.json", "any", [world_example(0, "train", i) for i in range(80)])
    change(folder, {**BRIEF, "dataset": "qa.json"})
    finish_all(folder)
    return folder


@pytest.mark.parametrize(("command", "change", "sentence"), TABLE)
def test_bad_input_is_one_sentence_and_changes_nothing(
    command: str, change: Change, sentence: str, finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path / "project")
    change(folder)
    before = contents(folder)
    name, *arguments = command.split(" ", 3)
    process = start(folder, name, arguments)
    process.join()
    said = (folder / "output").read_text()
    assert process.exitcode == 2, said
    assert "Traceback" not in said
    (refusal,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert refusal == said.splitlines()[-1] and sentence in refusal
    assert contents(folder) == before
