"""`attention_shared_prefix`: equal to the unshared form, and its merge equal to attention over the union."""

import pytest
import torch
from wfm_kernels import FULL, attention_shared_prefix
from wfm_kernels.attention import reference as attention_reference
from wfm_kernels.attention.triton import attention as triton_attention
from wfm_kernels.shared_prefix import reference
from wfm_kernels.shared_prefix.triton import merge


def inputs(device, B=3, N=4, H=2, T=2, P=40, L=20, K=32):
    torch.manual_seed(0)
    return tuple(torch.randn(shape, device=device) for shape in ((B, N, T, K), (H, P, K), (H, P, K), (B, H, L, K), (B, H, L, K)))


@pytest.mark.parametrize("T", [1, 2])
@pytest.mark.parametrize("suffix", [[20, 20, 20], [20, 7, 2]], ids=str)
def test_public_function_equals_unshared(T, suffix, device, assert_close):
    tensors = inputs(device, T=T)
    lengths, prefix = torch.tensor(suffix, device=device), torch.tensor([33], device=device)
    expected = reference.attention_shared_prefix(*tensors, lengths, prefix_length_1=prefix)
    assert_close(attention_shared_prefix(*tensors, lengths, prefix_length_1=prefix), expected)
    without_past = attention_reference.attention(tensors[0], *tensors[3:], lengths)
    assert (expected - without_past).abs().max() > 0.1


def test_kernel_passes_and_merge_equal_unshared(device, assert_close):
    q, prefix_k, prefix_v, k, v = inputs(device)
    lengths, prefix = torch.tensor([20, 7, 2], device=device), torch.tensor([33], device=device)
    B, N, T, K = q.shape
    rows = q.transpose(0, 1).reshape(1, N, B * T, K)
    past, past_lse = triton_attention(rows, prefix_k[None], prefix_v[None], prefix, mask=FULL, return_lse=True)
    own, own_lse = triton_attention(q, k, v, lengths, return_lse=True)
    got = merge(past.view(N, B, T, K).transpose(0, 1), past_lse.view(N, B, T).transpose(0, 1), own, own_lse)
    assert_close(got, reference.attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix))


def test_merge_of_empty_sets(device):
    a, b = torch.randn(1, 1, 4, 8, device=device), torch.randn(1, 1, 4, 8, device=device)
    none = float("-inf")
    lse_a = torch.tensor([[[none, 0.0, none, 1.0]]], device=device)
    lse_b = torch.tensor([[[0.0, none, none, 1.0]]], device=device)
    a[..., 2, :] = b[..., 2, :] = 0.0  # what attention gives where nothing is seen
    expected = torch.stack([b[0, 0, 0], a[0, 0, 1], torch.zeros_like(a[0, 0, 2]), (a[0, 0, 3] + b[0, 0, 3]) / 2])[None, None]
    torch.testing.assert_close(reference.merge(a, lse_a, b, lse_b), expected)
    torch.testing.assert_close(merge(a, lse_a, b, lse_b), expected)


def test_empty_prefix_is_plain_attention(device, assert_close):
    q, prefix_k, prefix_v, k, v = inputs(device)
    lengths, prefix = torch.tensor([20, 7, 2], device=device), torch.tensor([0], device=device)
    got = attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix)
    assert_close(got, attention_reference.attention(q, k, v, lengths))


def test_a_row_alone_equals_the_row_in_the_batch():
    q, prefix_k, prefix_v, k, v = inputs("cpu", T=1)
    lengths, prefix = torch.tensor([20, 20, 20]), torch.tensor([33])
    together = attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix)
    for b in range(3):
        alone = attention_shared_prefix(q[b : b + 1], prefix_k, prefix_v, k[b : b + 1], v[b : b + 1], lengths[:1], prefix_length_1=prefix)
        torch.testing.assert_close(alone, together[b : b + 1], atol=1e-6, rtol=0)
