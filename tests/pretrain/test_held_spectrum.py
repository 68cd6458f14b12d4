import numpy as np
import torch
from sklearn.decomposition import PCA

from narrowband.pretrain.bundled_model import sample_prompts, sample_texts
from narrowband.pretrain.held_spectrum import EXPONENT, hold_spectrum, token_counts
from narrowband.pretrain.tokenizer import train_tokenizer


def drawn_table() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(200, 24, generator=generator) * torch.linspace(1, 3, 24) + 5
    return table, torch.randint(0, 30, (200,), generator=generator)


def test_a_held_spectrum_falls_as_it_should_by_scikit_learn() -> None:
    table, counts = drawn_table()
    rows = np.repeat(table.numpy(), counts.numpy(), axis=0)
    before = PCA().fit(rows.astype(np.float64))
    hold_spectrum(table, counts)
    after = PCA().fit(np.repeat(table.numpy(), counts.numpy(), axis=0).astype(np.float64))
    wanted = np.arange(1, 25) ** -EXPONENT
    np.testing.assert_allclose(after.explained_variance_ratio_, wanted / wanted.sum(), rtol=1e-4)
    np.testing.assert_allclose(after.explained_variance_.sum(), before.explained_variance_.sum(), rtol=1e-5)
    np.testing.assert_allclose(after.mean_, before.mean_, rtol=1e-5)


def test_a_table_that_has_the_spectrum_stays() -> None:
    table, counts = drawn_table()
    hold_spectrum(table, counts)
    held = table.clone()
    hold_spectrum(table, counts)
    torch.testing.assert_close(table, held, rtol=1e-4, atol=1e-4)


def test_tokens_are_counted_over_all_texts() -> None:
    tokenizer = train_tokenizer(sample_texts(0, 100), 400)
    texts = list(sample_prompts(0, 5))
    counts = token_counts(texts, tokenizer)
    assert len(counts) == len(tokenizer)
    assert int(counts.sum()) == sum(len(tokenizer.tokenize(text)) for text in texts)
