"""Rows of one past behind a shared cache give what rows with caches of their own give, and copy nothing of the past."""

import pytest
import torch

from wfm_ar.errors import BadPrompt
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

CONFIG = WorldModelConfig(
    vocab=50, out_vocab=48, layers=2, dim=48, heads=6, kv_heads=2, head_dim=8, hidden=64, context_dim=16, additive_positions=True
)  # fmt: skip


@pytest.fixture(autouse=True)
def _short_pasts_are_shared(monkeypatch):
    monkeypatch.setattr("wfm_ar.world_model.kv_cache.SHARED_FROM", 4)


def futures(past: KVCache, rows: int) -> KVCache:
    return past.fork(torch.zeros(rows, dtype=torch.int64))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = WorldModel(CONFIG).eval()
    torch.nn.init.normal_(model.head.weight, std=0.2)
    return model


def tokens(rows: int, count: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(start)
    place = torch.arange(start, start + count)
    positions = torch.stack((place // 12, place // 4 % 3, place % 4), -1)
    return torch.randint(48, (rows, count), generator=generator), positions.expand(rows, -1, -1)


@torch.no_grad()
def test_shared_rows_equal_rows_of_their_own(model):
    past = model.new_cache(1, 40)
    model(*tokens(1, 13, 0), cache=past, context=torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1)))
    alone, shared = KVCache.stack([past.row(0)] * 3), futures(past, 3)
    assert shared.prefix[0].data_ptr() == past.k.data_ptr()  # nothing was copied
    begun = 13
    for count in (1, 4, 1, 2):  # single tokens, and actions several at a time
        ids, positions = tokens(3, count, begun)
        expected, got = (model(ids, positions, cache=cache) for cache in (alone, shared))
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
        begun += count
    assert 13 + shared.longest == alone.longest == 21
    # the past may go on by itself: the rows see only what it held when they branched off
    model(*tokens(1, 3, 90), cache=past)
    ids, positions = tokens(3, 1, begun)
    torch.testing.assert_close(model(ids, positions, cache=shared), model(ids, positions, cache=alone), atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_row_of_it_goes_on_as_a_plain_cache(model):
    past = model.new_cache(1, 24)
    model(*tokens(1, 6, 0), cache=past, context=torch.randn(1, 5, 16))
    shared = futures(past, 2)
    model(*tokens(2, 5, 6), cache=shared)
    row = shared.row(1).whole()
    assert row.prefix is None and row.longest == 11 and row.capacity == 24
    ids, positions = tokens(2, 1, 11)
    torch.testing.assert_close(model(ids[1:], positions[1:], cache=row), model(ids, positions, cache=shared)[1:], atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_full_cache_is_told(model):
    past = model.new_cache(1, 8)
    model(*tokens(1, 6, 0), cache=past, context=torch.randn(1, 5, 16))
    shared = futures(past, 2)
    with pytest.raises(BadPrompt, match="capacity 2"):
        model(*tokens(2, 3, 6), cache=shared)
