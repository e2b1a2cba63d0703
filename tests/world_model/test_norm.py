"""RMSNorm: the kernels' op without gradients equals torch's own with them, and the weights keep their name."""

import pytest
import torch

from wfm_ar.world_model.norm import RMSNorm


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)], ids=str)
def test_both_forms_are_one_norm(dtype: torch.dtype, bound: float) -> None:
    norm = RMSNorm(24, eps=1e-5).to(dtype)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(2, 3, 24).to(dtype)
    for scale in (1.0, 1e-3):
        learnt = norm(scale * x)
        with torch.no_grad():
            plain = norm(scale * x)
        assert learnt.requires_grad and not plain.requires_grad and plain.dtype == dtype
        assert (learnt.double() - plain.double()).abs().max().item() <= bound * learnt.double().abs().max().item()
    assert list(norm.state_dict()) == ["weight"]
