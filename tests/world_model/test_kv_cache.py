import pytest
import torch

from wfm_ar.errors import BadPrompt
from wfm_ar.world_model import KVCache


def filled(lengths: list[int]) -> KVCache:
    caches = []
    for length in lengths:
        cache = KVCache(2, 1, 8, 2, 4, torch.float32, "cpu")
        for layer in range(2):
            cache.update(layer, torch.randn(1, 2, length, 4), torch.randn(1, 2, length, 4))
        cache.advance(length)
        caches.append(cache)
    return KVCache.stack(caches)


def test_overflow_is_refused_before_anything_is_written():
    cache = filled([6])
    before = cache.k.clone()
    with pytest.raises(BadPrompt, match="capacity 8"):
        cache.update(0, torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    assert torch.equal(cache.k, before)


def test_ragged_rows_are_written_behind_their_own_lengths():
    cache = filled([2, 5])
    new = torch.randn(2, 2, 3, 4)
    cache.update(1, new, -new)
    cache.advance(3)
    assert cache.lengths_B.tolist() == [5, 8] and (cache.shortest, cache.longest) == (5, 8)
    assert torch.equal(cache.k[1, 0, :, 2:5], new[0]) and torch.equal(cache.v[1, 1, :, 5:8], -new[1])


def test_fork_copies_rows_and_truncate_forgets():
    cache = filled([2, 5])
    forked = cache.fork(torch.tensor([1, 1, 0]))
    forked.k.add_(1)
    assert forked.lengths_B.tolist() == [5, 5, 2] and not torch.equal(forked.k[:, 0], cache.k[:, 1])
    forked.truncate(3)
    assert forked.lengths_B.tolist() == [3, 3, 2] and forked.longest == 3
