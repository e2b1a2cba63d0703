"""Haar wavelet packets: fold little blocks of pixels into channels, exactly invertibly.

Promises: `haar_unpatch(haar_patch(x)) == x` up to rounding, a still block has energy in its first band only, and no frame
looks at a later block of frames. Knows nothing of networks. Every level splits *all* bands (a packet transform, not a
pyramid), in the band order time, height, width with low before high, as the Cosmos tokenizers do.
"""

import torch


def _split(x: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return (even + odd) * 0.5, (even - odd) * 0.5


def _merge(low: torch.Tensor, high: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.stack((low + high, low - high), dim + 1).flatten(dim, dim + 1)


def _levels(size: int) -> int:
    if size < 1 or size & (size - 1):
        raise ValueError(f"a Haar block side is a power of two, got {size}")
    return size.bit_length() - 1


def haar_patch(video_BCTHW: torch.Tensor, time: int, space: int, first: bool = True) -> torch.Tensor:
    """Float [B, C, T, H, W] -> [B, C * time * space^2, t, H / space, W / space].

    With `first` the clip starts at its beginning: frame 0 stands for a whole block (it is repeated `time` times), so
    T = 1 + time * n gives t = 1 + n. Without it the chunk continues a stream: T = time * n gives t = n.
    The first C channels are the block means. Levels of time run out before levels of space when time < space.
    """
    x = video_BCTHW
    if first and time > 1:
        x = torch.cat((x[:, :, :1].expand(-1, -1, time - 1, -1, -1), x), 2)
    for level in range(max(_levels(time), _levels(space))):
        bands = [x]
        if level < _levels(time):
            bands = [half for band in bands for half in _split(band, 2)]
        if level < _levels(space):
            bands = [half for band in bands for half in _split(band, 3)]
            bands = [half for band in bands for half in _split(band, 4)]
        x = torch.cat(bands, 1)
    return x


def haar_unpatch(x_BCthw: torch.Tensor, time: int, space: int, first: bool = True) -> torch.Tensor:
    """The inverse of `haar_patch`: [B, C * time * space^2, t, h, w] -> [B, C, T, H, W]."""
    x = x_BCthw
    for level in reversed(range(max(_levels(time), _levels(space)))):
        in_time, in_space = level < _levels(time), level < _levels(space)
        bands = list(x.chunk((2 if in_time else 1) * (4 if in_space else 1), 1))
        for dim in (4, 3) if in_space else ():
            bands = [_merge(low, high, dim) for low, high in zip(bands[0::2], bands[1::2], strict=True)]
        if in_time:
            bands = [_merge(low, high, 2) for low, high in zip(bands[0::2], bands[1::2], strict=True)]
        (x,) = bands
    return x[:, :, time - 1 :] if first and time > 1 else x
