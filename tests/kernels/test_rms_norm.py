"""`rms_norm` with and without residual, and `swiglu`: kernels against references, strided inputs, refusals."""

import pytest
import torch
from wfm_kernels import KernelError, rms_norm, swiglu
from wfm_kernels.rms_norm import reference as norm_reference
from wfm_kernels.rms_norm.triton import rms_norm as triton_rms_norm
from wfm_kernels.swiglu import reference as swiglu_reference
from wfm_kernels.swiglu.triton import swiglu as triton_swiglu


def test_reference_by_hand():
    x, weight = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(norm_reference.rms_norm(x, weight, eps=0.0), torch.tensor([3.0, 8.0]) / 12.5**0.5)
    torch.testing.assert_close(norm_reference.rms_norm(x * 0, weight), torch.zeros(2))
    torch.testing.assert_close(
        swiglu_reference.swiglu(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 2.0])), torch.tensor([0.0, 2 / (1 + 1 / 2.718281828)])
    )


@pytest.mark.parametrize("width", [1, 96, 256, 1000])
def test_rms_norm_kernel_equals_reference(width, dtype, device, assert_close):
    torch.manual_seed(0)
    wide = torch.randn(2, 3, width + 7, device=device).to(dtype)
    x, residual = wide[..., :width], wide.flip(0)[..., 7:]
    weight = torch.randn(width, device=device)
    assert_close(triton_rms_norm(x, weight), norm_reference.rms_norm(x, weight), spread=4.0)
    for got, expected in zip(
        triton_rms_norm(x, weight, residual=residual), norm_reference.rms_norm(x, weight, residual=residual), strict=True
    ):
        assert_close(got, expected, spread=4.0)
    assert (norm_reference.rms_norm(x, weight, eps=1.0).float() - norm_reference.rms_norm(x, weight).float()).abs().max() > 0.01
    assert_close(triton_rms_norm(x, weight, eps=1.0), norm_reference.rms_norm(x, weight, eps=1.0), spread=4.0)


@pytest.mark.parametrize("width", [3, 1500])
def test_swiglu_kernel_equals_reference_on_halves_of_one_product(width, dtype, device, assert_close):
    torch.manual_seed(0)
    gate, up = torch.randn(2, 2, 2 * width, device=device).to(dtype).chunk(2, dim=-1)
    assert_close(triton_swiglu(gate, up), swiglu_reference.swiglu(gate, up), spread=8.0)


def test_no_rows_give_no_rows(device):
    assert triton_rms_norm(torch.empty(0, 8, device=device), torch.ones(8, device=device)).shape == (0, 8)
    assert triton_swiglu(torch.empty(0, 8, device=device), torch.empty(0, 8, device=device)).shape == (0, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_cpu_paths_equal_the_references(dtype, assert_close):
    x, weight = torch.randn(4, 3, 24).to(dtype), torch.randn(24)
    for scale in (1.0, 1e-3):
        assert_close(rms_norm(scale * x, weight), norm_reference.rms_norm(scale * x, weight), spread=4.0)
    for got, expected in zip(rms_norm(x, weight, residual=x + 1), norm_reference.rms_norm(x, weight, residual=x + 1), strict=True):
        assert_close(got, expected, spread=4.0)
    assert_close(swiglu(x, x + 1), swiglu_reference.swiglu(x, x + 1), spread=8.0)


def test_refusals():
    x = torch.randn(4, 8)
    for call, message in [
        (lambda: rms_norm(x, torch.ones(7)), r"rms_norm: weight has shape \(7,\), expected \(8,\)"),
        (lambda: rms_norm(x, torch.ones(8), residual=x.half()), r"rms_norm: residual has dtype torch.float16, expected torch.float32"),
        (lambda: rms_norm(x.t().contiguous().t(), torch.ones(8)), r"rms_norm: last axis of x has stride 4"),
        (
            lambda: triton_rms_norm(torch.randn(1, 16385), torch.ones(16385)),
            r"x has rows of 16385, expected at most 16384 on CUDA",
        ),
        (lambda: rms_norm(x.long(), torch.ones(8)), r"rms_norm: x has dtype torch.int64"),
        (lambda: swiglu(x, x[:, :4]), r"swiglu: up has shape \(4, 4\), expected \(4, 8\)"),
    ]:
        with pytest.raises(KernelError, match=message):
            call()
