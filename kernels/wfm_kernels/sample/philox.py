"""Philox-4x32-10 in plain torch: the counter-based generator whose numbers the kernels' tl.philox gives too.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". A number is a function of (seed, row, step, stream)
alone, so a row draws the same whatever its neighbours and any step can be drawn without those before it.
"""

import torch
from torch import Tensor

LOW = 0xFFFFFFFF


def philox(seed_B: Tensor, row_B: Tensor, step_B: Tensor, stream: int | Tensor) -> tuple[Tensor, Tensor]:
    """Two words (int64 [B], each below 2^32) for the 64-bit keys seed_B and the counters (row, step, stream, 0), low 32 bits each.

    stream: of all rows, or int64 [S, 1] for words [S, B].
    """
    k0, k1 = seed_B & LOW, (seed_B >> 32) & LOW
    c0, c1, c2, c3 = row_B & LOW, step_B & LOW, torch.zeros_like(row_B) + stream, torch.zeros_like(row_B)
    for _ in range(10):
        product_a, product_b = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wrap at 2^64, which leaves both halves right
        c0, c1 = ((product_b >> 32) & LOW) ^ c1 ^ k0, product_b & LOW
        c2, c3 = ((product_a >> 32) & LOW) ^ c3 ^ k1, product_a & LOW
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return c0, c1


def uniform(word_B: Tensor) -> Tensor:
    """float32 in [0, 1) from the upper 24 bits of a word: all values exact, none rounds up to 1."""
    return (word_B >> 8).float() * 2.0**-24


def philox_word(seed: int, row: int, step: int, stream: int) -> int:
    """The first word of `philox` for one key, in Python's integers: for a handful of keys quicker than a hundred calls of torch."""
    k0, k1 = seed & LOW, (seed >> 32) & LOW
    c0, c1, c2, c3 = row & LOW, step & LOW, stream, 0
    for _ in range(10):
        product_a, product_b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (product_b >> 32) ^ c1 ^ k0, product_b & LOW
        c2, c3 = (product_a >> 32) ^ c3 ^ k1, product_a & LOW
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return c0
