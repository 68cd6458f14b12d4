"""A base model's weights, read from safetensors and frozen, on the device they stay on."""

import re
from collections.abc import Iterable
from typing import Any, cast

import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from narrowband.lm.base_model import locate, refusal
from narrowband.lm.device import best_device, best_dtype
from narrowband.lm.split import blocks
from narrowband.params import InputError
from narrowband.runtime import distributed

transformers.utils.logging.disable_progress_bar()


def load_frozen(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The causal LM called `name`, frozen, in evaluation mode, on the best device there is; sharded if the run is.

    Raises:
        InputError: it can't be loaded, or its weights are not those that its configuration asks for.
    """
    model: Any = _read_weights(name, config)
    model.eval().requires_grad_(False)
    distributed.shard(model, blocks(model))
    model.to(best_device())
    # A model's own generation settings (a repetition penalty, top-p) would make "greedy" something else.
    model.generation_config = GenerationConfig()
    return cast(PreTrainedModel, model)


def _read_weights(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    location = locate(name)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location.name,
            revision=location.revision,
            config=config,
            dtype=best_dtype(),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below
            trust_remote_code=False,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # any exception, from libraries for many formats
        raise refusal(name, error) from None
    model, report = loaded
    if odd := report["mismatched_keys"]:
        tensor, held, wanted = min(odd)
        raise InputError(
            f"base_model {name} has {tensor} of shape {tuple(held)}, and by its config.json of {tuple(wanted)}; correct that, or "
            "download it again"
        )
    if lost := report["missing_keys"]:
        raise InputError(
            f"base_model {name} lacks {len(lost)} of its weights, {min(lost)} among them; download or save it again"
        )
    _require_all_blocks(name, model, report["unexpected_keys"])
    return cast(PreTrainedModel, model)


def _require_all_blocks(name: str, model: PreTrainedModel, unread: Iterable[str]) -> None:
    """Raise an InputError if weights that were not read are those of more blocks than the model has."""
    found = blocks(model)
    stack = next(
        (path.rpartition(".")[0] for path, module in model.named_modules() if found and module is found[0]), ""
    )
    stack = stack.removeprefix(f"{model.base_model_prefix}.")
    key = re.compile(rf"(?:{re.escape(model.base_model_prefix)}\.)?{re.escape(stack)}\.(\d+)\.")
    held = [1 + int(match[1]) for match in map(key.match, unread) if match]
    if max(held, default=0) > len(found):
        raise InputError(
            f"base_model {name} holds {max(held)} blocks, and by its config.json has {len(found)}; correct num_hidden_layers, or "
            "download it again"
        )
