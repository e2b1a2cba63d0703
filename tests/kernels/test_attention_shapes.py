"""`attention` at shapes drawn by hypothesis: kernel and CPU path against the reference, with any number of splits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wfm_kernels import attention
from wfm_kernels.attention import reference
from wfm_kernels.attention.triton import attention as triton_attention


@st.composite
def shapes(draw):
    capacity = draw(st.integers(1, 70))
    lengths = draw(st.lists(st.integers(0, capacity), min_size=1, max_size=2))
    return dict(
        lengths=lengths,
        capacity=capacity,
        max_length=draw(st.integers(max(1, *lengths), capacity)),
        tokens=draw(st.sampled_from([1, 3, 16, 20])),
        kv_heads=draw(st.sampled_from([1, 2])),
        group=draw(st.sampled_from([1, 4, 8])),
        head=draw(st.sampled_from([32, 40, 96])),
        splits=draw(st.integers(1, 3)),
    )


@pytest.mark.timeout(900)
@given(shapes())
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
def test_paths_equal_reference(device, assert_close, shape):
    torch.manual_seed(0)
    B, L, H = len(shape["lengths"]), shape["capacity"], shape["kv_heads"]
    q = torch.randn(B, H * shape["group"], shape["tokens"], shape["head"], device=device)
    k, v = (torch.randn(B, H, L, shape["head"], device=device) for _ in range(2))
    lengths = torch.tensor(shape["lengths"], device=device)
    expected = reference.attention(q, k, v, lengths)
    assert_close(triton_attention(q, k, v, lengths, max_length=shape["max_length"], splits=shape["splits"]), expected)
    if device.type == "cpu":
        assert_close(attention(q, k, v, lengths, max_length=shape["max_length"]), expected)
