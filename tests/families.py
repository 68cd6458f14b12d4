"""Tiny random checkpoints of many model families, each with a tokenizer of the kind that its family has."""

import json
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RecurrentGemmaConfig,
)

from narrowband.pretrain.bundled_model import sample_texts
from narrowband.pretrain.tokenizer import train_tokenizer

TEXTS = (
    "长江是中国最长的河流,它发源于青藏高原。",
    "نهر النيل هو أطول نهر في أفريقيا.",
    "\u0915\u094d\u200d\u0937 \u0907\u0915 \u0905\u0915\u094d\u0937\u0930 है।",  # Hindi with a ZWJ
    "A family \U0001f468\u200d\U0001f469\u200d\U0001f467 lives in Orvane \U0001f3e1.",
    "The cafe\u0301 is in Orvane.",  # not in NFC
)
"""Texts whose characters take several tokens, or are changed by a tokenizer that normalises."""

VOCABULARY = 512
EMBEDDINGS = 528  # more than entries of the tokenizer, as in most checkpoints
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": EMBEDDINGS}
BASIC = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 640,
    "initializer_range": 0.3,
}
GROUPED = {**BASIC, "num_key_value_heads": 1, "head_dim": 16}
SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}


class Family(NamedTuple):
    """A configuration with its settings; the special tokens that the tokenizer has; what kind of tokenizer it is."""

    config: type[PreTrainedConfig]
    settings: dict[str, object]
    bos: Literal["own", "eos", "none"]
    pad: bool
    metaspace: bool = False
    shards: bool = False
    nfc: bool = False


FAMILIES = {
    "llama": Family(LlamaConfig, {**GROUPED, "tie_word_embeddings": False}, bos="own", pad=False),
    "qwen2": Family(Qwen2Config, {**GROUPED, "tie_word_embeddings": True}, bos="none", pad=True, shards=True, nfc=True),
    "qwen3": Family(Qwen3Config, {**GROUPED, "tie_word_embeddings": False}, bos="none", pad=True, nfc=True),
    "mistral": Family(MistralConfig, {**GROUPED, "sliding_window": 16}, bos="own", pad=False, metaspace=True),
    "gemma2": Family(
        Gemma2Config, {**GROUPED, **SLIDING, "query_pre_attn_scalar": 16}, bos="own", pad=True, metaspace=True
    ),
    "gemma3": Family(
        Gemma3TextConfig, {**GROUPED, **SLIDING, "query_pre_attn_scalar": 16}, bos="own", pad=True, metaspace=True
    ),
    "gpt2": Family(
        GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 640, "initializer_range": 0.3},
        bos="eos",
        pad=False,
    ),
    "opt": Family(
        OPTConfig,
        {**BASIC, "ffn_dim": 48, "word_embed_proj_dim": 16, "init_std": 0.3},
        bos="own",
        pad=True,
        shards=True,
    ),
    "gpt_neox": Family(GPTNeoXConfig, {**BASIC, "tie_word_embeddings": False}, bos="eos", pad=True),
    "phi": Family(PhiConfig, BASIC, bos="eos", pad=False),
    "bloom": Family(
        BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}, bos="own", pad=True
    ),
    "mpt": Family(
        MptConfig,
        {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 640, "initializer_range": 0.3},
        bos="eos",
        pad=False,
    ),
    "mamba": Family(
        MambaConfig,
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.3},
        bos="eos",
        pad=False,
    ),
}


def save_family(name: str, folder: Path, **settings: object) -> Path:
    """Write a checkpoint of the family called `name`, with `settings` beside its own, to `folder`."""
    family = FAMILIES[name]
    tokenizer = make_tokenizer(family)
    ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("bos", "eos", "pad")}
    config = family.config(**{**family.settings, **settings, "vocab_size": EMBEDDINGS, **ids})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size="40KB" if family.shards else "1GB")
    tokenizer.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").exists() == family.shards
    return folder


def save(config: PreTrainedConfig, folder: Path) -> Path:
    """A random checkpoint of another architecture, with the tokenizer of the tiny Llama's."""
    save_family("llama", folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def save_recurrent(folder: Path) -> Path:
    """A random checkpoint whose recurrent blocks read padding (transformers 5.23), and keep more than keys and values."""
    blocks = {"block_types": ["recurrent", "attention"], "attention_window_size": 32, "lru_width": 32}
    config = RecurrentGemmaConfig(**SIZES, **blocks, num_attention_heads=2, w_init_variance_scale=2.0)
    return save(config, folder)


def make_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    tokenizer = metaspace_tokenizer() if family.metaspace else train_tokenizer(sample_texts(0, 200), VOCABULARY)
    if family.bos != "own":
        tokenizer.bos_token = tokenizer.eos_token if family.bos == "eos" else None
    if family.nfc:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    if not family.pad:
        tokenizer.pad_token = None
    return tokenizer


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece makes them: spaces are part of words, one comes first, and bytes stand for the rest."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 256, special_tokens=["<pad>", "</s>", "<s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator((text.replace("\n", " ") for text in sample_texts(0, 200)), trainer)
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def joining_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that writes bytes and joins a full stop or a question mark with the line break after it, as Qwen's."""
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["Context: A fox.\nQuestion: A fox?\nAnswer: fox\n\n"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def make_stop(folder: Path) -> None:
    """Change an untied checkpoint so that its texts end after a few tokens: what its hidden states share speaks for it."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert head.weight is not embedding.weight
    with torch.no_grad():
        embedding.weight[:, 0] = 1.0
        embedding.weight[:, 0] = 4.0 / embedding(torch.tensor(0))[0]
        ids = torch.arange(VOCABULARY).view(8, -1)
        shared = model(ids, output_hidden_states=True).hidden_states[-1].mean((0, 1))
        head.weight[model.config.eos_token_id] = 5.0 * shared / shared.square().sum()
    model.save_pretrained(folder)
