import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowband.codec.windows import cut, join, token_places


def test_windows_start_at_the_first_coded_token_and_end_filled_with_zeros() -> None:
    embeddings = torch.arange(1.0, 13).reshape(2, 6, 1)  # rows 1..6 and 7..12
    coded = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]], dtype=torch.bool)
    assert cut(embeddings, coded, 2).tolist() == [[3, 4], [5, 0], [8, 9]]
    assert token_places(coded, 2).tolist() == [[True, True], [True, False], [True, True]]


@settings(deadline=None)
@given(st.data())
def test_join_undoes_cut_and_touches_coded_tokens_alone(data: st.DataObject) -> None:
    batch, seq, hidden = (data.draw(st.integers(1, n)) for n in (4, 9, 3))
    window = data.draw(st.integers(1, 12))
    coded = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch * seq, max_size=batch * seq))).view(
        batch, seq
    )
    embeddings = torch.randn(batch, seq, hidden, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))

    vectors = cut(embeddings, coded, window)

    assert len(vectors) == sum(-(-int(n) // window) for n in coded.sum(1))
    assert torch.equal(join(vectors, embeddings, coded, window), embeddings)
    changed = join(vectors + 1, embeddings, coded, window)
    assert torch.equal(changed != embeddings, coded[..., None].expand_as(embeddings))
