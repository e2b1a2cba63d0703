"""`Linear` gives what nn.Linear gives, whichever way it takes."""

import pytest
import torch
import torch.nn.functional as F

from wfm_ar.world_model import linear as module
from wfm_ar.world_model.linear import BLOCK, FEW, LARGE, SOME, Linear


@pytest.mark.parametrize("rows", [1, 3, 4, 8, 12, 13, 48, 49])
def test_every_number_of_rows(rows):
    layer = Linear(512, LARGE // 512, bias=False)
    x = torch.randn(rows, 1, 512)
    with torch.no_grad():
        y = layer(x)
    assert y.shape == (rows, 1, LARGE // 512) and y.is_contiguous()
    torch.testing.assert_close(y, F.linear(x.double(), layer.weight.double()).float(), atol=2e-5, rtol=1e-5)


def test_the_ways_are_taken_where_they_are_apt(monkeypatch):
    taken = []
    product = torch.bmm
    monkeypatch.setattr(module.torch, "bmm", lambda *both: taken.append(both[1].shape[-1]) or product(*both))
    apt = Linear(512, LARGE // 512, bias=False)
    with torch.no_grad():
        apt(torch.randn(2, 4, 512))
        assert taken == [BLOCK]
        for other, x in (
            (apt, torch.randn(FEW.start - 1, 512)),
            (apt, torch.randn(SOME.start, 512)),
            (Linear(256, 256, bias=False), torch.randn(8, 256)),
            (Linear(512, LARGE // 512 + 1, bias=False), torch.randn(8, 512)),
            (Linear(512, LARGE // 512), torch.randn(8, 512)),
            (Linear(512, LARGE // 512, bias=False).bfloat16(), torch.randn(8, 512).bfloat16()),
        ):
            other(x)
    apt(torch.randn(8, 512)).sum().backward()  # with gradients it is nn.Linear
    assert taken == [BLOCK] and apt.weight.grad.shape == apt.weight.shape
