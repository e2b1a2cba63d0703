"""Rotary positions over three axes (t, h, w), from explicit positions a token; and sin-cos positions to add.

The head is rotated in halves (pairs i and i + K/2). Of the K/2 frequencies, h and w take K // 6 each and t the rest
(cosmos-predict1's split: 22, 21, 21 at K = 128).
"""

import math

import torch


def axis_sizes(head_dim: int) -> tuple[int, int, int]:
    """Number of frequencies of (t, h, w); they add up to head_dim / 2."""
    spatial = head_dim // 6
    return head_dim // 2 - 2 * spatial, spatial, spatial


def rotary_frequencies(head_dim: int, theta: float, yarn_shape: tuple[int, int] | None = None, yarn_scale: float = 2.0) -> torch.Tensor:
    """float32 [3, head_dim / 2]: row a holds the frequencies of axis a in its own columns, zero elsewhere.

    So `positions @ frequencies` is the angle row. `yarn_shape` = (frames, side) of the original latent grid stretches
    frequencies that saw less than a turn there by `yarn_scale` (YaRN with beta 4 and 1, without its mscale - as published).
    """
    where = torch.get_default_device()
    with torch.device("cpu"):  # arithmetic on the meta device makes torch import its compiler, a second and more
        rows, column = torch.zeros(3, head_dim // 2), 0
        for axis, count in enumerate(axis_sizes(head_dim)):
            frequency = theta ** -(torch.arange(0, 2 * count, 2, dtype=torch.float32) / (2 * count))
            if yarn_shape is not None:
                length = yarn_shape[0] if axis == 0 else yarn_shape[1]
                low, high = 2 * math.pi * 1 / length, 2 * math.pi * 4 / length
                keep = ((frequency - low) / (high - low)).clamp(0, 1)
                frequency = frequency * ((1 - keep) / yarn_scale + keep)
            rows[axis, column : column + count] = frequency
            column += count
    return rows.to(where)


def rotary_tables(positions_BL3: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) [B, L, 1, K] for `turn` of wfm_kernels. Negative positions mean "no position" and rotate by nothing."""
    angles = positions_BL3.clamp_min(0).float() @ frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).unsqueeze(2).to(dtype), torch.cat((-sin, sin), -1).unsqueeze(2).to(dtype)


def position_tables(count: int, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (cos, sin) [count, K / 2]: row p holds every frequency's turn at position p, whichever axis the frequency follows."""
    angles = torch.arange(count, dtype=torch.float32, device=frequencies.device)[:, None] * frequencies.sum(0)
    return angles.cos(), angles.sin()


def sincos_positions(positions_BL3: torch.Tensor, dim: int) -> torch.Tensor:
    """float32 [B, L, dim]: [sin | cos] of each axis in the order t, h, w; zero where the position is negative.

    dims: dim // 6 * 2 each for h and w, the rest for t; omega = 10000^-(i / (d / 2)).
    """
    spatial = dim // 6 * 2
    parts = []
    for axis, size in enumerate((dim - 2 * spatial, spatial, spatial)):
        omega = 10000 ** -(torch.arange(size // 2, dtype=torch.float64, device=positions_BL3.device) / (size / 2))
        angle = positions_BL3[..., axis, None].double() * omega
        parts += [angle.sin(), angle.cos()]
    return (torch.cat(parts, -1) * (positions_BL3[..., :1] >= 0)).float()
