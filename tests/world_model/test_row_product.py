"""Products of a few rows: what the formula says, and a row's bits whatever is beside it."""

import pytest
import torch

from wfm_ar.world_model import row_product
from wfm_ar.world_model.row_product import BatchedProduct, HalfProduct, product_for

SHAPES = [(48, 32), (80, 128), (2187, 256), (256, 1024)]  # [out, in]


@pytest.fixture
def halves() -> None:
    if product_for([torch.zeros(1, 1)]) is not HalfProduct:
        pytest.skip("this torch or CPU has no product of FBGEMM's with rows apart")


def _weight(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(shape).half().float()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [HalfProduct, BatchedProduct])
@torch.inference_mode()
def test_is_the_product(halves: None, kind: type, shape: tuple[int, int]) -> None:
    weight_OI, x_RI = _weight(shape), torch.randn(8, shape[1])
    exact = x_RI.double() @ weight_OI.double().T
    found = kind(weight_OI, padded=True).of(2)(x_RI)[:, : shape[0]]
    assert found.dtype == torch.float32
    assert ((found - exact).abs() / exact.std()).max() <= 1e-5  # weights or inputs in half precision would be 1e-4 off


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 3])
@torch.inference_mode()
def test_a_row_of_a_half_product_has_the_same_bits_among_any_others(halves: None, shape: tuple[int, int], threads: int) -> None:
    before = torch.get_num_threads()
    product, x_RI = HalfProduct(_weight(shape)), torch.randn(400, shape[1])
    alone = torch.cat([product(four) for four in x_RI.split(4)])
    try:
        torch.set_num_threads(threads)
        for count in (8, 20, 24, 28, 32, 52, 100, 152, 400):
            for first in (0, 400 - count):
                assert torch.equal(product(x_RI[first : first + count]), alone[first : first + count])
    finally:
        torch.set_num_threads(before)


def test_only_weights_that_stay_as_they_are_become_halves(halves: None) -> None:
    exact = _weight((16, 32))
    for value in (1 + 2**-11, 1e-9, 70000.0, float("nan")):
        rounded = exact.clone()
        rounded[3, 5] = value
        assert product_for([exact, rounded]) is BatchedProduct
    assert product_for([exact, exact.bfloat16()]) is BatchedProduct
    assert product_for([exact, torch.full((4, 4), 2.0**-24)]) is HalfProduct  # the smallest there is
    assert HalfProduct(torch.full((4, 4), 2.0**-24))(torch.ones(4, 4)).eq(2.0**-22).all()


def test_a_cpu_whose_rows_are_not_apart_takes_the_batched_product(halves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_kernels(x_RI: torch.Tensor, packed: torch.Tensor, bias: None) -> torch.Tensor:
        return x_RI[:, :1] * len(x_RI)

    monkeypatch.setattr(torch, "fbgemm_linear_fp16_weight_fp32_activation", other_kernels)
    row_product._fbgemm_keeps_rows_apart.cache_clear()
    try:
        assert product_for([torch.zeros(1, 1)]) is BatchedProduct
        row_product._fbgemm_keeps_rows_apart.cache_clear()
        monkeypatch.delattr(torch, "fbgemm_pack_gemm_matrix_fp16")  # a later torch
        assert product_for([torch.zeros(1, 1)]) is BatchedProduct
    finally:
        row_product._fbgemm_keeps_rows_apart.cache_clear()
