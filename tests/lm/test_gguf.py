"""GGUF files as base models: the same model as the folder they were written from, and a sentence for whatever is no such file."""

import json
import math
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter, TokenType
from transformers import AutoModelForCausalLM, AutoTokenizer

from narrowband.lm import cache, gguf
from narrowband.lm.base_model import load_tokenizer, locate, outline
from narrowband.lm.frozen import FrozenLM
from narrowband.lm.gguf_header import MalformedError, read_header
from narrowband.params import InputError

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "narrowband" / "models"


def write_gguf(model: Path, path: Path, **metadata: object) -> Path:
    """Write the tiny Llama in the folder `model` as llama.cpp's converter would, with `metadata` beside its own."""
    lm = AutoModelForCausalLM.from_pretrained(model)
    backend = AutoTokenizer.from_pretrained(model)
    config = lm.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    tokens = backend.convert_ids_to_tokens(range(len(backend)))
    special = set(backend.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges(backend))
    writer.add_bos_token_id(backend.bos_token_id)
    writer.add_eos_token_id(backend.eos_token_id)
    writer.add_pad_token_id(backend.pad_token_id)
    for key, value in {"tokenizer.ggml.pre": "gpt-2", **metadata}.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(key, value)
    for name, tensor in lm.state_dict().items():
        if ".q_proj" in name or ".k_proj" in name:  # whose halves llama.cpp interleaves
            rows = tensor.view(config.num_attention_heads, 2, -1, tensor.shape[1])
            tensor = rows.transpose(1, 2).reshape(tensor.shape)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merges(tokenizer: object) -> list[str]:
    listed = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in listed]


@pytest.fixture
def file(tiny_model: Path, tmp_path: Path) -> Path:
    (tmp_path / "gguf").mkdir()
    return write_gguf(tiny_model, tmp_path / "gguf" / "tiny.gguf")


@pytest.mark.parametrize("named", ["file", "folder", "other name"])
def test_a_gguf_file_is_the_model_it_was_written_from(lm: FrozenLM, file: Path, named: str) -> None:
    name = (
        file.parent if named == "folder" else file.rename(file.with_name("blob@v1")) if named == "other name" else file
    )
    assert outline(str(name)).get_input_embeddings().embedding_dim == lm.hidden_size
    found = FrozenLM.load(str(name))
    assert found.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    assert found.tokenizer.chat_template is None
    assert not hasattr(found.model.config, "quantization_config")
    for key, tensor in lm.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], tensor), key
    text = "Context: Belmir  Tavosk was born in 1250.\n\nQuestion: Where?"
    ids = [tokenizer(text, add_special_tokens=False).input_ids for tokenizer in (found.tokenizer, lm.tokenizer)]
    assert ids[0] == ids[1]


def test_a_file_is_converted_once_whatever_it_is_called(
    file: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = locate(str(file))
    monkeypatch.setattr(gguf, "_convert", lambda *args: pytest.fail("converted again"))
    assert locate(str(file.rename(tmp_path / "other.gguf"))) == first
    assert [path.name for path in models.iterdir() if path.is_dir()] == [Path(first.name).name]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "model.safetensors"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"cut"),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / gguf.RECORD).write_text("[]"),
        lambda folder: (folder / gguf.RECORD).unlink(),
    ],
    ids=["flipped", "cut", "missing", "record damaged", "record missing"],
)
def test_a_damaged_conversion_is_made_again(damage: Callable[[Path], object], lm: FrozenLM, file: Path) -> None:
    folder = Path(locate(str(file)).name)
    damage(folder)
    found = FrozenLM.load(str(file))
    assert Path(locate(str(file)).name) == folder
    assert all(torch.equal(found.model.state_dict()[key], tensor) for key, tensor in lm.model.state_dict().items())


def test_a_conversion_whose_files_were_only_touched_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(locate(str(file)).name)
    (folder / "model.safetensors").touch()
    monkeypatch.setattr(gguf, "_convert", lambda *args: pytest.fail("converted again"))
    locate(str(file))


def test_large_files_are_hashed_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALL", 0)
    locate(str(file))
    locate(str(file))
    cache._recorded.cache_clear()  # as in another process
    monkeypatch.setattr(cache, "sha256", lambda *args: pytest.fail("hashed again"))
    locate(str(file))


def test_a_conversion_that_fails_leaves_nothing_to_be_read(
    file: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "_to_disk", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        locate(str(file))
    assert not [path for path in models.iterdir() if path.is_dir()]


def test_digits_are_parted_before_spaces_are_where_the_vocabulary_was_made_so(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_gguf(tiny_model, tmp_path / "a.gguf", **{"tokenizer.ggml.pre": "smollm"})))
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2"]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"tokenizer.ggml.pre": "elsewhere"}, "splits text as 'elsewhere', which transformers does not read"),
        ({"llama.rope.scaling.type": "yarn"}, r"scales its positions \(yarn\), which transformers does not read"),
        ({"split.count": 3}, "is one of 3 parts; join them with llama-gguf-split --merge"),
        ({"general.alignment": 24}, "has an alignment of 24, which is not a power of two"),
        ({"llama.vocab_size": 1 << 31}, r"says that llama\.vocab_size is 2147483648; 16777216 is the most"),
        ({"llama.vocab_size": 1 << 23}, r"holds \d+ weights and transformers .* reads 536\d+ of such a llama model"),
    ],
)
def test_what_transformers_would_read_wrongly_is_refused(
    tiny_model: Path, tmp_path: Path, metadata: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as refusal:
        locate(str(write_gguf(tiny_model, tmp_path / "a.gguf", **metadata)))
    assert "\n" not in str(refusal.value)


def test_a_folder_with_several_files(file: Path) -> None:
    (file.parent / "more.gguf").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"holds 2 GGUF files; name one of them, such as .*more\.gguf"):
        locate(str(file.parent))


@pytest.mark.parametrize(("base", "allowed"), [(283461213.0, True), (math.inf, False), (math.nan, False)])
def test_the_base_of_rotary_embeddings_may_be_any_number(
    tiny_model: Path, tmp_path: Path, base: float, allowed: bool
) -> None:
    path = write_gguf(tiny_model, tmp_path / "long.gguf", **{"llama.rope.freq_base": base})
    if allowed:
        assert outline(str(path)).config.rope_parameters["rope_theta"] == pytest.approx(base, rel=1e-6)
    else:
        with pytest.raises(InputError, match=r"says that llama.rope.freq_base is (inf|nan)"):
            outline(str(path))


HEAD = b"GGUF" + struct.pack("<I", 3)
HUGE = 1 << 62


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


NAMED = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


def tensor(name: bytes, shape: list[int], offset: int, kind: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "starts with b'', not GGUF"),
        (b"PK\x03\x04" + bytes(100), r"starts with b'PK\\x03\\x04', not GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer; run git lfs pull"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is GGUF version 50331648, not one of"),
        (HEAD, "ends after 8 bytes, in the middle of its header"),
        (HEAD + struct.pack("<QQ", HUGE, 0), "claims to hold 4611686018427387904 tensors"),
        (HEAD + struct.pack("<QQ", 0, HUGE), "ends after 24 bytes, in the middle"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k", HUGE), "says that 4611686018427387904 more follow byte 32"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<I", 99), "value of type 99, which is not known"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, HUGE), "arrays of more than 1048576"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1), "array of values of type 9"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, 1000), "says that 4000 more follow"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"\xff\xfe"), "has a text at byte 32 that is not UTF-8"),
        (HEAD + struct.pack("<QQ", 0, 0), "does not say its architecture"),
        (HEAD + struct.pack("<QQ", 0, 2) + NAMED + NAMED, "says 'general.architecture' twice"),
        (HEAD + struct.pack("<QQ", 1, 1) + NAMED + tensor(b"t", [1] * 9, 0), "'t' of 9 dimensions; 1 to 4"),
        (
            HEAD + struct.pack("<QQ", 1, 1) + NAMED + tensor(b"t", [HUGE, HUGE], 0),
            "ends after .* bytes, but its tensor",
        ),
        (HEAD + struct.pack("<QQ", 1, 1) + NAMED + tensor(b"t", [4], HUGE) + bytes(64), "ends after .* its tensor 't'"),
        (
            HEAD + struct.pack("<QQ", 1, 1) + NAMED + tensor(b"t", [0], 0),
            r"of shape \[0\], which is not made of blocks",
        ),
        (HEAD + struct.pack("<QQ", 1, 1) + NAMED + tensor(b"t", [33], 0, 2), r"shape \[33\], .* blocks of 32"),
        (HEAD + struct.pack("<QQ", 1, 1) + NAMED + tensor(b"t", [4], 0, 77), "'t' of type 77, which is not known"),
        (
            HEAD + struct.pack("<QQ", 2, 1) + NAMED + tensor(b"t", [16], 0) + tensor(b"u", [16], 32) + bytes(999),
            "has its tensor 'u' at byte 192, which is misaligned or overlaps another",
        ),
        (
            HEAD + struct.pack("<QQ", 2, 1) + NAMED + tensor(b"t", [4], 0) + tensor(b"t", [4], 32) + bytes(999),
            "has two tensors called 't'",
        ),
        (
            HEAD + struct.pack("<QQ", 0, 2) + NAMED + text(b"llama.block_count") + struct.pack("<II", 4, 1_000_000),
            "claims to have 1000000 blocks and holds 0 tensors",
        ),
    ],
)
def test_a_hostile_file_ends_in_a_sentence_and_in_bounded_memory(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"base_model {path} .*{sentence}") as refusal:
        locate(str(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
    assert "\n" not in str(refusal.value)


def test_a_file_cut_anywhere_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    assert read_header(file).elements["token_embd.weight"] == 512 * 32
    cut = tmp_path / "cut.gguf"
    for size in (*range(0, 400, 7), *range(400, len(whole), 997), len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(MalformedError):
            read_header(cut)


@pytest.mark.parametrize("change", [lambda b: b.replace(b"llama", b"lxama"), lambda b: b.replace(b"gpt2", b"gpt9")])
def test_what_the_library_does_not_know_is_refused(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match="can't be read as GGUF by transformers") as refusal:
        locate(str(file))
    assert "\n" not in str(refusal.value)
