"""How many of a tokenizer's codes are in use, and when that is so few that the tokens say nothing."""

from collections.abc import Iterable

import numpy as np
import torch

FEWEST = 4  # codes: a tokenizer that uses no more holds no picture, however small its codebook
SHARE = 0.01  # of the codes that could be used


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """exp(entropy) of the distribution that counts [n] describe: how many codes are in use, effectively."""
    share = counts / counts.sum().clamp_min(1)
    return torch.exp(-(share * share.clamp_min(1e-12).log()).sum())


def count_codes(tokens: Iterable[np.ndarray], codebook: int) -> torch.Tensor:
    """float [codebook]: how often each code occurs in these clips of tokens."""
    counts = torch.zeros(codebook)
    for clip in tokens:
        counts += torch.from_numpy(np.bincount(clip.reshape(-1), minlength=codebook)).float()
    return counts


def collapse(counts: torch.Tensor) -> str:
    """A line where codes that were counted have collapsed, "" where they have not.

    They have where no more than FEWEST of them are used, or less than SHARE of those that so many tokens could use. A fixed camera
    makes one code frequent, which is no collapse: it is the different codes that count.
    """
    used, codebook, tokens = int((counts > 0).sum()), len(counts), int(counts.sum())
    if tokens == 0 or used > max(min(FEWEST, codebook // 2), SHARE * min(codebook, tokens)):
        return ""
    return (
        f"CODES HAVE COLLAPSED: {used} of {codebook} are used ({used / codebook:.1%}), perplexity {float(perplexity(counts)):.1f}: the "
        "tokens hold next to nothing of the pictures, and how well they are predicted means nothing; fix: train the video tokenizer on, "
        "with a lower optimizer.lr, tokenizer.normalise=true or a higher decorrelate"
    )
