"""A base model's weights, read from safetensors and frozen, on the device they stay on."""

from typing import Any, cast

import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from narrowband.lm.device import best_device, best_dtype
from narrowband.lm.source import locate, refusal
from narrowband.lm.split import blocks
from narrowband.params import InputError
from narrowband.runtime import distributed

transformers.utils.logging.disable_progress_bar()


def load_frozen(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    """The causal LM called `name`, frozen, in evaluation mode, on the best device there is; sharded if the run is.

    Raises:
        InputError: it can't be loaded, or lacks some of its weights.
    """
    model: Any = _read_weights(name, config)
    model.eval().requires_grad_(False)
    distributed.shard(model, blocks(model))
    model.to(best_device())
    # A model's own generation settings (a repetition penalty, top-p) would make "greedy" something else.
    model.generation_config = GenerationConfig()
    return cast(PreTrainedModel, model)


def _read_weights(name: str, config: PreTrainedConfig) -> PreTrainedModel:
    source = locate(name)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.name,
            revision=source.revision,
            config=config,
            dtype=best_dtype(),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # any exception, from libraries for many formats
        raise refusal(name, error) from None
    model, report = loaded
    if lost := report["missing_keys"]:
        raise InputError(
            f"base_model {name} lacks {len(lost)} of its weights, {min(lost)} among them; download or save it again"
        )
    return cast(PreTrainedModel, model)
