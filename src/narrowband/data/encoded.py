"""The prompts of a QA file as token ids, encoded once by `datasets` and mapped into memory, however many there are."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import datasets
from transformers import PreTrainedTokenizerBase

from narrowband.data import prompts, squad
from narrowband.data.prompts import EncodedPrompt, encode_prompt
from narrowband.data.squad import open_squad, stream_squad
from narrowband.params import InputError, Prompt

CACHE = Path(".checkpoints") / "prompts"
COLUMNS = datasets.Features(
    {
        "ids": datasets.List(datasets.Value("int32")),
        "coded": datasets.List(datasets.Value("bool")),
        "truncated": datasets.Value("bool"),
    }
)


class Prompts(Sequence[EncodedPrompt]):
    """Encoded prompts in a table on disk."""

    def __init__(self, table: datasets.Dataset) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, key: int) -> EncodedPrompt: ...

    @overload
    def __getitem__(self, key: slice) -> list[EncodedPrompt]: ...

    def __getitem__(self, key: int | slice) -> EncodedPrompt | list[EncodedPrompt]:
        found = self._table[key]
        if isinstance(key, int):
            return EncodedPrompt(**found)
        return [EncodedPrompt(*row) for row in zip(*(found[name] for name in COLUMNS), strict=True)]

    def __iter__(self) -> Iterator[EncodedPrompt]:
        return (EncodedPrompt(**row) for row in self._table)


def read_prompts(tokenizer: PreTrainedTokenizerBase, path: Path, prompt: Prompt) -> Prompts:
    """The prompts of a QA file, in order; read from disk if this tokenizer has encoded this file before.

    Raises:
        InputError: see `stream_squad` and `encode_prompt`.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for example in stream_squad(path):
            yield encode_prompt(tokenizer, example.context, example.question, prompt)._asdict()

    datasets.disable_progress_bars()
    try:
        table = datasets.Dataset.from_generator(
            rows, features=COLUMNS, cache_dir=str(CACHE), fingerprint=_fingerprint(tokenizer, path, prompt)
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    return Prompts(table)


def _fingerprint(tokenizer: PreTrainedTokenizerBase, path: Path, prompt: Prompt) -> str:
    """Names what the ids of a file depend on: its bytes, the tokenizer, the parameters, and the code that encodes."""
    with open_squad(path) as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    digest.update(f"{tokenizer.bos_token_id}/{prompt.model_dump_json()}".encode())
    for module in (prompts, squad):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
