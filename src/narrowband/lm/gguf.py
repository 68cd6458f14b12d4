"""GGUF files as base models: dequantised once into a folder of safetensors, which everything else then reads.

transformers reads the files (https://huggingface.co/docs/transformers/gguf). That takes a minute for a model of 270M
parameters, so the result is kept in the user's cache under the file's SHA-256. transformers silently ignores some settings,
which would give wrong answers; they are checked here: the pre-tokenizer, position scaling, unread tensors.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from narrowband.lm.cache import cache_folder, file_sha256
from narrowband.lm.device import best_dtype
from narrowband.lm.gguf_header import GgufHeader, MalformedError, is_gguf, read_header
from narrowband.params import InputError, first_line
from narrowband.runtime.artifacts import sha256
from narrowband.runtime.entry import console
from narrowband.runtime.files import read_cached, write_json

FILE = "model.gguf"
RECORD = "files.json"
"""SHA-256 of each file of a conversion."""
SHARED = "output.weight"
"""The output head; in families that tie it to the embeddings, a copy of them."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""The symbol for a space in SentencePiece vocabularies."""
CONVERSION = 1
"""Version of the conversion; raise it when its result changes."""
MOST_BUFFERS = 1 << 26
"""Maximum number of elements in a model's buffers."""
LIKE_GPT2 = ("default", "gpt-2", "phi-2", "olmo", "jais", "mpt", "roberta-bpe", "modern-bert", "trillion", "mellum")
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""`tokenizer.ggml.pre` of byte-level vocabularies that split text as GPT-2 does, and of those that split off each digit first.

From llama.cpp's table (llama-vocab.cpp). transformers treats every value that it does not know as GPT-2's.
"""


def find_gguf(base_model: str) -> Path | None:
    """The GGUF file that `base_model` names, or the only one in the folder that it names; `None` if there is none.

    Raises:
        InputError: it is a folder with several GGUF files and no other weights.
    """
    path = Path(base_model)
    if is_gguf(path):
        return path
    files = [file for file in path.iterdir() if file.suffix.lower() == ".gguf"] if path.is_dir() else []
    if not files or any(path.glob("*.safetensors*")):
        return None
    if len(files) > 1:
        raise InputError(
            f"base_model {base_model} holds {len(files)} GGUF files; name one of them, such as {min(files)}"
        )
    return files[0]


def converted_folder(file: Path) -> Path:
    """Folder for the converted model of a GGUF file, named by content, dtype and transformers version; it may not exist yet."""
    dtype = str(best_dtype()).removeprefix("torch.")
    name = f"{file_sha256(file)[:16]}-{dtype}-{transformers.__version__}-{CONVERSION}"
    return cache_folder() / "models" / name


def convert(file: Path) -> Path:
    """The folder with a GGUF file's weights as safetensors and its tokenizer; made if it does not exist or is damaged.

    Raises:
        InputError: the file can't be read, or not without changing what the model does.
    """
    folder = converted_folder(file)
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):
            console.print(f"converting {file} once, to {folder}", soft_wrap=True)
            with _said_in_a_sentence(file):
                _convert(file, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a conversion's files are those that were written."""
    match read_cached(folder / RECORD):
        case {"sha256": sums}:
            return bool(sums == {path.name: file_sha256(path) for path in _files(folder)})
    return False


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != RECORD]


@contextmanager
def _said_in_a_sentence(file: Path) -> Iterator[None]:
    try:
        yield
    except MalformedError as error:
        raise InputError(f"base_model {file} {error}; download it again, or give another file") from None
    except InputError:
        raise
    except Exception as error:  # any exception: the reader trusts the file
        if isinstance(error, OSError) and error.errno:  # from the operating system, such as a full disk
            raise
        raise InputError(
            f"base_model {file} can't be read as GGUF by transformers {transformers.__version__}: {first_line(error)}; "
            "give another file, or a folder of safetensors"
        ) from None


def _convert(file: Path, folder: Path) -> None:
    header = read_header(file)
    _check_positions(file, header)
    making = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(making, ignore_errors=True)  # left by a killed run
    making.mkdir()
    try:
        link = making / FILE  # transformers recognises GGUF files by their names
        link.symlink_to(file.resolve())
        config = AutoConfig.from_pretrained(making, gguf_file=FILE)
        _check_size(file, header, config)
        _save_tokenizer(file, header, making)
        _save_model(making, config)
        link.unlink()
        write_json(making / RECORD, {"sha256": {path.name: sha256(path) for path in _files(making)}})
        _to_disk(making)
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        making.replace(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _check_positions(file: Path, header: GgufHeader) -> None:
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise InputError(
            f"base_model {file} scales its positions ({scaling}), which transformers does not read from GGUF files; give "
            "the model as a folder of safetensors, or a hub id"
        )


def _check_size(file: Path, header: GgufHeader, config: PreTrainedConfig) -> None:
    """Check that the model built from the metadata has as many weights as the file: no huge model, no unread tensors."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    built = sum(parameter.numel() for parameter in model.parameters())
    held = sum(header.elements.values())
    spare = header.elements.get(SHARED, 0)
    if sum(buffer.numel() for buffer in model.buffers()) > MOST_BUFFERS or built not in (held, held - spare):
        raise InputError(
            f"base_model {file} holds {held} weights and transformers {transformers.__version__} reads {built} of such a "
            f"{header.architecture} model; give the model as a folder of safetensors, or a hub id"
        )


def _save_tokenizer(file: Path, header: GgufHeader, making: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(making, gguf_file=FILE)
    _split_as_llama_cpp(file, tokenizer.backend_tokenizer, header)
    if header.architecture.startswith("gemma"):
        # SentencePiece matches runs of spaces before it merges anything; transformers reads these runs as ordinary tokens.
        runs = sorted(token for token in tokenizer.get_vocab() if len(token) > 1 and not token.strip(SPACE))
        tokenizer.add_tokens([AddedToken(run, normalized=True, special=False) for run in runs])
    tokenizer.save_pretrained(making)
    # Tokenizer classes add special tokens of their own, such as <|endoftext|>, which have no embedding here.
    saved = making / "tokenizer.json"
    content = json.loads(saved.read_bytes())
    entries = header.metadata["tokenizer.ggml.tokens"]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < entries]
    write_json(saved, content)


def _split_as_llama_cpp(file: Path, backend: Tokenizer, header: GgufHeader) -> None:
    """Make a byte-level tokenizer split text like the one that the vocabulary was made with.

    For a run of spaces before a digit they differ: GPT-2's joins the last space to the digit.
    """
    kind = header.metadata.get("tokenizer.ggml.pre", "default")
    if header.metadata.get("tokenizer.ggml.model") != "gpt2" or kind in (*LIKE_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        return
    if kind not in DIGITS_APART:
        raise InputError(
            f"base_model {file} splits text as {kind!r}, which transformers does not read from GGUF files; give the model as "
            "a folder of safetensors with its tokenizer.json, or a hub id"
        )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _save_model(making: Path, config: PreTrainedConfig) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        making,
        gguf_file=FILE,
        config=config,
        dtype=best_dtype(),
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    model, report = loaded
    if lost := report["missing_keys"]:
        raise MalformedError(f"lacks {len(lost)} of its weights, {min(lost)} among them")
    model.save_pretrained(making)


def _to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power cut could leave empty files under the new name
