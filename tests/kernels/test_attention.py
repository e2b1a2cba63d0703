"""`attention`: the CPU path and the Triton kernel against the fp32 reference, and bit for bit against themselves."""

import pytest
import torch
from wfm_kernels import KernelError, attention
from wfm_kernels.attention import reference, sdpa
from wfm_kernels.attention.triton import attention as triton_attention
from wfm_kernels.attention.triton import chunk_length, number_of_splits


def inputs(lengths, device, heads=4, kv_heads=2, tokens=1, capacity=96, head_dim=32, dtype=torch.float32, seed=0):
    """Random q, k, v, lengths on the device, of unit spread; dead places of the cache hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(lengths)
    q = torch.randn(batch, heads, tokens, head_dim, generator=generator)
    k = torch.randn(batch, kv_heads, capacity, head_dim, generator=generator)
    v = torch.randn(batch, kv_heads, capacity, head_dim, generator=generator)
    for b, length in enumerate(lengths):
        k[b, :, length:] = float("nan")
        v[b, :, length:] = float("nan")
    return q.to(device, dtype), k.to(device, dtype), v.to(device, dtype), torch.tensor(lengths, device=device)


def test_reference_is_a_softmax_written_by_hand():
    q = torch.tensor([[[[1.0, 0.0]]]])
    k = torch.tensor([[[[2.0, 0.0], [0.0, 5.0], [9.0, 9.0]]]])
    v = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [7.0, 7.0]]]])
    out = reference.attention(q, k, v, torch.tensor([2]), scale=1.0)
    e = 2.718281828459045**2
    torch.testing.assert_close(out, torch.tensor([[[[e / (e + 1), 1 / (e + 1)]]]]))


RAGGED = [
    dict(lengths=[96, 0, 17], tokens=1),
    dict(lengths=[96, 3, 50], tokens=3),
    dict(lengths=[1, 20, 96], tokens=16),  # the first row is shorter than its queries
    dict(lengths=[96, 64], tokens=64, head_dim=64),
    dict(lengths=[70, 33], tokens=1, heads=8, kv_heads=1, head_dim=96),
    dict(lengths=[70, 33], tokens=5, heads=3, kv_heads=3, head_dim=128),
    dict(lengths=[130, 61], tokens=20, heads=8, kv_heads=2, capacity=130),  # 80 rows: two row tiles
    dict(lengths=[96, 96], tokens=1, heads=8, kv_heads=2),
    dict(lengths=[40, 7], tokens=3, head_dim=256, capacity=40),
    dict(lengths=[8, 8], tokens=8),  # the whole cache is new: a prefill
]


@pytest.mark.parametrize("case", RAGGED, ids=str)
def test_cpu_path_equals_reference(case, assert_close):
    q, k, v, lengths = inputs(device="cpu", **case)
    assert_close(attention(q, k, v, lengths), reference.attention(q, k, v, lengths))


@pytest.mark.parametrize("case", RAGGED, ids=str)
def test_kernel_equals_reference(case, dtype, device, assert_close):
    q, k, v, lengths = inputs(device=device, dtype=dtype, **case)
    assert_close(triton_attention(q, k, v, lengths), reference.attention(q, k, v, lengths))


def test_kernel_takes_any_outer_strides(device, assert_close):
    q, k, v, lengths = inputs([80, 33], device, tokens=3)
    expected = reference.attention(q, k, v, lengths)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)
    k = k.transpose(1, 2).contiguous().transpose(1, 2)
    v = torch.cat([v, v], dim=-1)[..., : v.shape[-1]]
    assert_close(triton_attention(q, k, v, lengths), expected)
    assert_close(attention(q.cpu(), k.cpu(), v.cpu(), lengths.cpu()), expected.cpu())


def test_kernel_takes_lengths_of_any_stride(device, assert_close):
    q, k, v, _ = inputs([96, 41], device, tokens=3)
    for lengths in (torch.tensor([96, 0, 41, 0], device=device)[::2], torch.tensor(17, device=device).expand(2)):
        assert_close(triton_attention(q, k, v, lengths), reference.attention(q, k, v, lengths))


def test_scale_is_used(device, assert_close):
    q, k, v, lengths = inputs([80, 33], device, tokens=3)
    expected = reference.attention(q, k, v, lengths, scale=0.7)
    assert (expected - reference.attention(q, k, v, lengths)).abs().max() > 0.1
    assert_close(triton_attention(q, k, v, lengths, scale=0.7), expected)
    assert_close(attention(q.cpu(), k.cpu(), v.cpu(), lengths.cpu(), scale=0.7), expected.cpu())


def test_number_of_splits_and_form_of_fold_change_no_bit(device):
    q, k, v, lengths = inputs([200, 77], device, tokens=2, capacity=200, heads=2, kv_heads=1)
    one = triton_attention(q, k, v, lengths, splits=1)
    for splits in (2, 3):
        assert torch.equal(triton_attention(q, k, v, lengths, splits=splits), one)
        assert torch.equal(triton_attention(q, k, v, lengths, splits=splits, two_launches=True), one)


def test_chunks_follow_max_length_alone():
    assert [chunk_length(n, 64) for n in (1, 64, 2048, 2049, 4096, 16384)] == [128, 128, 128, 192, 256, 1024]
    assert number_of_splits(blocks=8, max_chunks=32, multiprocessors=132) == 32
    assert number_of_splits(blocks=64, max_chunks=32, multiprocessors=132) == 4
    assert number_of_splits(blocks=128, max_chunks=32, multiprocessors=132) == 1


@pytest.mark.parametrize("tokens", [1, 3])
def test_row_alone_equals_row_in_batch_and_run_equals_run(tokens, device):
    q, k, v, lengths = inputs([96, 41, 7], device, tokens=tokens)
    for path in (triton_attention, attention) if device.type == "cpu" else (triton_attention,):
        together = path(q, k, v, lengths)
        assert torch.equal(together, path(q, k, v, lengths))
        for b in range(3):
            assert torch.equal(together[b : b + 1], path(q[b : b + 1], k[b : b + 1], v[b : b + 1], lengths[b : b + 1]))


def test_cpu_rows_of_equal_length_have_the_bits_of_one_row():
    q, k, v, lengths = inputs([64, 64, 64], "cpu", tokens=2, capacity=64)
    together = sdpa.attention(q, k, v, lengths)
    for b in range(3):
        assert torch.equal(together[b : b + 1], sdpa.attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], lengths[b : b + 1]))


def test_bad_inputs_are_refused_with_one_line():
    q, k, v, lengths = inputs([96, 41], "cpu")
    refused = [
        (dict(q=q[0]), r"q and k have 3 and 4 axes"),
        (dict(v=v[:, :, :50]), r"v has shape \(2, 2, 50, 32\), expected \(2, 2, 96, 32\)"),
        (dict(q=q[:, :3]), r"3 query heads over 2 kv heads"),
        (dict(k=k.half()), r"k has dtype torch.float16, expected torch.float32"),
        (dict(q=q.double()), r"q has dtype torch.float64"),
        (dict(lengths=lengths.float()), r"lengths has dtype torch.float32"),
        (dict(lengths=lengths[:1]), r"lengths has shape \(1,\), expected \(2,\)"),
        (dict(lengths=lengths + 1), r"lengths are \[97, 42\], expected each in 0..96"),
        (dict(lengths=lengths - 42), r"lengths are \[54, -1\]"),
        (dict(max_length=97), r"max_length is 97, expected 1..96"),
        (dict(max_length=95), r"lengths are \[96, 41\], expected each in 0..95"),
        (dict(k=k.transpose(2, 3).contiguous().transpose(2, 3)), r"last axis of k has stride 96, expected 1; fix: k.contiguous"),
    ]
    for change, message in refused:
        arguments = dict(q=q, k=k, v=v, lengths=lengths, max_length=None) | change
        with pytest.raises(KernelError, match="^attention: " + message) as error:
            attention(arguments["q"], arguments["k"], arguments["v"], arguments["lengths"], max_length=arguments["max_length"])
        assert "\n" not in str(error.value)


def test_heads_wider_than_a_tile_are_refused_by_the_kernel():
    q = torch.randn(1, 1, 1, 257)
    with pytest.raises(KernelError, match="heads of 257, expected at most 256 on CUDA"):
        triton_attention(q, q, q, torch.tensor([1]))
