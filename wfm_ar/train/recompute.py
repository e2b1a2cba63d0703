"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): less memory for a step, for more time.

Of the blocks of a network the inputs alone are kept for the backward pass, where each is computed once more.
Gradients stay the same. A class whose forward is a function of its inputs and weights alone says so with
`recomputable = True`: one that also changes something (running statistics) would do that twice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: nn.Module) -> int:
    """From now on the outermost recomputable blocks of `model` keep their inputs alone; -> their number.

    Names of weights stay as they are. Steps without gradients cost what they did.
    """
    found = 0
    for module in model.children():
        if getattr(module, "recomputable", False):
            module.forward = partial(_recomputed, type(module).forward, module)
            found += 1
        else:
            found += recompute_blocks(module)
    return found


def _recomputed(forward: Callable[..., Any], module: nn.Module, *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(module, *inputs, **named)
    return checkpoint(forward, module, *inputs, use_reentrant=False, preserve_rng_state=False, **named)  # nothing is drawn in blocks
