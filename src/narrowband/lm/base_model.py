"""What `base_model` names: a folder, a GGUF file or a hub repository, and what is known about it without its weights."""

import inspect
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import transformers
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import cached_file, extract_commit_hash, has_file

from narrowband.lm.gguf import convert, find_gguf
from narrowband.lm.weights import INDEX, WHOLE, check_files, check_quantization
from narrowband.params import InputError, first_line

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
FORWARD = ("inputs_embeds", "attention_mask", "logits_to_keep")
"""Arguments of `forward` that are needed to run left-padded embeddings; the probe asks whether they suffice."""


class Location(NamedTuple):
    """A folder, or a repository of the hub, at a revision (branch, tag or commit) if one is named.

    For a GGUF file it is the folder that the file was converted to.
    """

    name: str
    revision: str | None


def locate(base_model: str) -> Location:
    """Read FOLDER, FILE.gguf, NAME or NAME@REVISION.

    Raises:
        InputError: it is a folder without a model or tokenizer, or a GGUF file that can't be read.
    """
    if file := find_gguf(base_model):
        return Location(str(convert(file)), None)
    name, _, revision = base_model.partition("@")
    if Path(base_model).exists() or _is_path(name):
        _check_folder(base_model)
        return Location(base_model, None)
    return Location(name, revision or None)


def _is_path(name: str) -> bool:
    path = Path(name)
    named = name.startswith((".", "/", "~")) or path.suffix.lower() == ".gguf"
    return named or path.exists() or len(path.parts) > 2 or path.parts[:1] == ("models",)


def _check_folder(name: str) -> None:
    if not Path(name).exists():
        raise InputError(f"base_model {name} does not exist; give a folder, a GGUF file or a hub id")
    held = {file.name for file in Path(name).iterdir()} if Path(name).is_dir() else set()
    if "config.json" not in held:
        raise InputError(
            f"base_model {name} is not a model folder (no config.json in it); give a folder, a GGUF file or a hub id"
        )
    if held.isdisjoint(TOKENIZER_FILES):
        raise InputError(
            f"base_model {name} has no tokenizer (no tokenizer.json in it); save one there with save_pretrained"
        )


def outline(base_model: str) -> PreTrainedModel:
    """The model without its weights (on the meta device, in no memory), with everything else checked.

    Raises:
        InputError: see `model_config` and `load_tokenizer`; or its configuration makes no model, or its tokenizer is of another.
    """
    config = model_config(base_model)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # any exception, from a family's own code
        raise refusal(base_model, error) from None
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    require_embeddings(base_model, load_tokenizer(base_model), embedding.num_embeddings)
    return model


def is_here(base_model: str) -> bool:
    """Whether the weights are in a folder or file on this machine rather than on the hub.

    Raises:
        InputError: see `locate`.
    """
    return Path(locate(base_model).name).is_dir()


def max_positions(model: PreTrainedModel) -> int | None:
    """A model's maximum number of positions; `None` if its configuration has none."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))  # the latter in MPT


def model_config(base_model: str) -> PreTrainedConfig:
    """The configuration of a causal LM that accepts embeddings in place of tokens.

    Raises:
        InputError: it can't be read, is of another or an unknown architecture, or has no weights as safetensors.
    """
    location = locate(base_model)
    content = _read_config(base_model, location)
    check_quantization(base_model, content)
    kind = content.get("model_type") or "nameless"
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        why = "brings code of its own, which is never run" if "auto_map" in content else "is not known"
        raise InputError(
            f"base_model {base_model} is a {kind} model, which {why} (transformers {transformers.__version__}); "
            "give a causal LM of a known family"
        )
    try:
        config = AutoConfig.from_pretrained(location.name, revision=location.revision, trust_remote_code=False)
        stored = any(has_file(location.name, file, revision=location.revision) for file in (WHOLE, INDEX))
    except Exception as error:  # any exception, from a family's own checks
        raise refusal(base_model, error) from None
    _check_family(base_model, config)
    if not stored:
        raise InputError(
            f"base_model {base_model} has no weights as safetensors (pickled ones are never read); save it again"
        )
    if Path(location.name).is_dir():
        check_files(base_model, Path(location.name))
    # What the file asks for may need another library or code from the hub, so transformers chooses.
    config._attn_implementation = None
    config._experts_implementation = None
    return config


def _read_config(base_model: str, location: Location) -> dict[str, Any]:
    """What `config.json` holds, in which `architectures`, if there are any, are names."""
    try:
        content, _ = PreTrainedConfig.get_config_dict(location.name, revision=location.revision)
    except (OSError, ValueError) as error:
        raise refusal(base_model, error) from None
    except (TypeError, AttributeError):  # from transformers, which takes it for a mapping
        content = None
    if not isinstance(content, dict):
        raise InputError(f"base_model {base_model} has a config.json that holds no mapping; download or save it again")
    names = content.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"base_model {base_model} has {names!r} as architectures in its config.json, which should be a list of names; "
            "correct it"
        )
    return content


def commit(base_model: str) -> str:
    """The commit that a hub repository was read at.

    Raises:
        InputError: it can't be read.
    """
    location = locate(base_model)
    try:
        return str(extract_commit_hash(cached_file(location.name, "config.json", revision=location.revision), None))
    except OSError as error:
        raise refusal(base_model, error) from None


def _check_family(base_model: str, config: PreTrainedConfig) -> None:
    family = cast(type[PreTrainedModel] | None, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None))
    if family is None or family.__name__ not in (config.architectures or [family.__name__]):
        made = " or ".join(config.architectures or [config.model_type])
        raise InputError(f"base_model {base_model} is a {made} model, not a causal LM; give a causal LM")
    missing = [name for name in FORWARD if name not in inspect.signature(family.forward).parameters]
    if missing:
        raise InputError(
            f"base_model {base_model} is a {family.__name__}, which takes no {missing[0]}, so it can't be fed reconstructed "
            "embeddings; give a model of another family"
        )
    if "inputs_embeds" not in inspect.signature(cast(Any, family).prepare_inputs_for_generation).parameters:
        raise InputError(
            f"base_model {base_model} is a {family.__name__}, whose generate takes no inputs_embeds, so it can't be fed "
            "reconstructed embeddings; give a model of another family"
        )
    if getattr(config.get_text_config(), "hidden_size_per_layer_input", 0):
        raise InputError(
            f"base_model {base_model} is a {family.__name__} that feeds token ids to every layer, so it can't be fed "
            "reconstructed embeddings alone; give a model of another family"
        )


def load_tokenizer(base_model: str) -> PreTrainedTokenizerBase:
    """The tokenizer, without any chat template: a base model's prompt is plain text.

    Raises:
        InputError: it can't be loaded, or does not report the character offsets of tokens.
    """
    location = locate(base_model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location.name, revision=location.revision, trust_remote_code=False)
    except Exception as error:  # any exception, from a damaged tokenizer.json
        raise refusal(base_model, error) from None
    if not tokenizer.is_fast:
        raise InputError(
            f"base_model {base_model} has a {type(tokenizer).__name__}, which does not report the offsets of its "
            "tokens; add a tokenizer.json"
        )
    tokenizer.chat_template = None
    return tokenizer


def require_embeddings(base_model: str, tokenizer: PreTrainedTokenizerBase, count: int) -> None:
    """Raise an InputError if the tokenizer has ids beyond the model's embeddings (`count`)."""
    if (ids := id_count(tokenizer)) > count:
        raise InputError(
            f"base_model {base_model} has a tokenizer whose ids go up to {ids - 1}, but only {count} embeddings; "
            "use the tokenizer it was trained with"
        )


def id_count(tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokenizer's highest id plus 1: more than it has entries if some ids are not in use."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def refusal(base_model: str, error: Exception) -> InputError:
    """The InputError that says why a base model can't be loaded, without the URLs and paths in the library's message."""
    name, revision = locate(base_model)
    for cause in _chain(error):
        match cause:
            case GatedRepoError():
                why = f"is gated; accept its terms at https://huggingface.co/{name}, then log in with `hf auth login`"
            case RepositoryNotFoundError():
                why = "is not on the hub, or is private; check its name, or log in with `hf auth login`"
            case RevisionNotFoundError():
                why = f"has no revision {revision}; give a branch, tag or commit of {name}"
            case LocalEntryNotFoundError():
                why = "has not been downloaded and the hub can't be reached; check the network, or give a folder"
            case _:
                continue
        return InputError(f"base_model {base_model} {why}")
    why = repr(error) if isinstance(error, KeyError) else first_line(error).rstrip(":")
    return InputError(f"base_model {base_model} can't be loaded as a causal LM: {why}; check its name, or give another")


def _chain(error: BaseException | None) -> list[BaseException]:
    return [error, *_chain(error.__cause__)] if error else []
