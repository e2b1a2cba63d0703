"""Linear layers in 8 bits: every path of the product against the same product in float64, and what making them takes."""

import pytest
import torch

from wfm_ar.rollout import int8
from wfm_ar.rollout.int8 import Int8Linear


def layer(dtype: torch.dtype, shape: tuple[int, int] = (320, 96)) -> tuple[Int8Linear, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(shape) * torch.logspace(-2, 1, shape[0])[:, None]
    return Int8Linear(weight, "cpu", dtype), weight


def test_each_row_is_within_half_a_step_of_its_own(monkeypatch):
    monkeypatch.setattr(int8, "AT_ONCE", 960)  # ten rows at a time, the last piece whole
    made, weight = layer(torch.float32)
    step = weight.abs().amax(1) / 127
    torch.testing.assert_close(made.scale, step)
    assert ((made.weight8.float() * step[:, None] - weight).abs() <= 0.501 * step[:, None]).all()
    assert made.weight8.dtype == torch.int8 and (made.weight8.abs().amax(1) == 127).all()


@pytest.mark.parametrize("shape", [(320, 96), (300, 40)], ids=str)  # the second fits no packed product, and its last piece is short
@pytest.mark.parametrize("rows", [(1,), (2, 4), (9,)], ids=str)
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)], ids=str)
def test_few_rows_and_many_give_the_product(shape, rows, dtype, bound):
    made, _ = layer(dtype, shape)
    x = torch.randn(*rows, shape[1]).to(dtype)
    weight = made.weight8.double() * made.scale.double()[:, None]
    exact, size = x.double() @ weight.T, x.double().norm(dim=-1, keepdim=True) * weight.norm(dim=1)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            got = made(x)
        assert got.shape == (*rows, shape[0]) and got.dtype == dtype
        assert ((got.double() - exact).abs() / size).max() < bound


def test_few_rows_in_bf16_take_the_product_with_8_bit_weights_where_torch_has_it(monkeypatch):
    made, _ = layer(torch.bfloat16)
    called, x = [], torch.randn(3, 96).bfloat16()
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda x, w, s: called.append(len(x)) or (x.float() @ w.float().T * s).bfloat16())
    with torch.inference_mode():
        made(x), made(torch.randn(9, 96).bfloat16())
    made(x)  # a gradient may be wanted
    assert called == [3]
    monkeypatch.delattr(torch, "_weight_int8pack_mm")
    with torch.inference_mode():
        assert made(x).isfinite().all()
