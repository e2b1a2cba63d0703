"""The short ways of large convolutions on the CPU: the numbers of the plain ones, whole or streamed, and taken where they should be."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_ar.tokenizers.video import causal_conv
from wfm_ar.tokenizers.video.causal_conv import CausalConv3d, Downsample, Upsample, with_past
from wfm_ar.tokenizers.video.winograd import conv3x3


def clip(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last_3d)


@pytest.fixture
def short(monkeypatch):
    """All convolutions count as large; short(False) makes none count."""

    def choose(on: bool) -> None:
        for name in ("LARGE", "WINOGRAD"):
            monkeypatch.setattr(causal_conv, name, 0 if on else 1 << 60)
        monkeypatch.setattr(causal_conv, "TILED", 0)

    choose(True)
    return choose


@pytest.mark.parametrize("outputs", [3, 8])
@pytest.mark.parametrize("pictures, high, wide", [(1, 2, 2), (3, 6, 10), (2, 34, 4), (1, 4, 300), (1, 48, 64)])
def test_tiles_give_the_convolution(pictures, high, wide, outputs):
    """Against float64; at the widest, one row of tiles is more than is done at a time, at the highest the last rows are fewer."""
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((pictures, high, wide, 5), (outputs, 5, 3, 3), (outputs,)))
    with torch.no_grad():
        made = conv3x3(x, weight, bias).permute(0, 3, 1, 2).double()
        alone = conv3x3(x[-1:], weight, bias).permute(0, 3, 1, 2).double()
    exact = F.conv2d(x.permute(0, 3, 1, 2).double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(made, exact, atol=2e-5, rtol=0)
    assert torch.equal(made[-1:], alone)  # whatever pictures are beside it


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("time, space", [(3, 1), (1, 3), (1, 1)])
@pytest.mark.parametrize("large", [True, False], ids=["large", "channels last"])
def test_short_ways_give_the_plain_numbers(short, large, time, space, frames, rows):
    conv = CausalConv3d(6, 8, time=time, space=space)
    x = clip(rows, 6, frames, 6, 8)
    short(large)
    with torch.no_grad():
        plain = F.conv3d(with_past(conv, x, time - 1, None), conv.weight, conv.bias, padding=conv.padding)
        conv.to(memory_format=torch.contiguous_format if large else torch.channels_last_3d)
        made = conv(x)
    torch.testing.assert_close(made, plain, atol=2e-5, rtol=0)
    assert made.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (1, 4), (2, 3), (3, 1, 1), (4, 1)])
def test_frames_in_pieces_give_the_whole(short, pieces):
    """The first frames add other taps than later ones do, wherever a piece ends."""
    conv, x = CausalConv3d(6, 8, time=3), clip(2, 6, 5, 4, 4)
    with torch.no_grad():
        memory = {}
        streamed = torch.cat([conv(piece, memory) for piece in x.split(pieces, 2)], 2)
        whole = conv(x)
        assert memory[conv].shape[2] == 2 and torch.equal(memory[conv], x[:, :, -2:])
        torch.testing.assert_close(streamed, whole, atol=1e-6, rtol=1e-6)
        short(False)
        torch.testing.assert_close(streamed, conv(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("time, space", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("kind", [Upsample, Downsample])
def test_resampling(short, kind, time, space):
    layer, x = kind(6, time, space), clip(2, 6, 5, 6, 7 if kind is Upsample else 8)
    with torch.no_grad():
        made = layer(x)
        short(False)
        torch.testing.assert_close(made, layer(x), atol=2e-5, rtol=0)


def test_where_the_short_ways_are_not_taken(short, monkeypatch):
    """What learns, half precision, odd sizes and small weights go torch's way."""
    taken = []
    for name in ("_in_products", "_in_tiles", "_product"):
        whole = getattr(CausalConv3d, name)
        note = lambda self, *rest, name=name, whole=whole: taken.append(name) or whole(self, *rest)  # noqa: E731
        monkeypatch.setattr(CausalConv3d, name, note)
    in_time, in_space, point = CausalConv3d(6, 6, time=3), CausalConv3d(6, 6, space=3), CausalConv3d(6, 6)
    x = clip(1, 6, 3, 6, 6)
    for conv in (in_time, in_space, point):
        conv(x).sum().backward()
    with torch.no_grad():
        in_space(clip(1, 6, 3, 6, 7))
        CausalConv3d(6, 6, time=3, stride=2)(x)
        in_time.to(torch.bfloat16)(x.bfloat16())
        in_time.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            in_time(x)
        assert taken == []
        for conv in (in_time, in_space, point):
            conv(x)
    assert taken == ["_in_products", "_in_tiles", "_product"]
