"""AdamW's parameter groups, the learning-rate schedule and the moving average of the weights."""

import copy
import math

import torch
from torch import nn

from wfm_ar.train.distributed import local
from wfm_ar.train.settings import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Decay matrices and convolutions only; parameters keep the order of `named_parameters`, which checkpoints rely on."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for _, p in named if p.ndim >= 2 and id(p) not in embeddings]
    plain = [p for _, p in named if not (p.ndim >= 2 and id(p) not in embeddings)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=1e-8, foreach=True)


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then half a cosine down to min_lr_ratio of the peak. `step` counts from 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)


class WeightAverage:
    """An exponential moving average of a model's parameters and of its float buffers; other buffers are copied.

    Running statistics belong to the weights they were taken under: averaged weights want averaged statistics.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Fold in the weights after `step`; early on the average follows quickly, so that it never drags the start along."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = ([local(t) for t in (*m.parameters(), *m.buffers())] for m in (self.model, model))
        floats = [t.is_floating_point() for t in mine]
        torch._foreach_lerp_(  # pyright: ignore - torch's stubs leave it out
            [t for t, f in zip(mine, floats, strict=True) if f], [t for t, f in zip(theirs, floats, strict=True) if f], 1 - decay
        )
        for own, other, is_float in zip(mine, theirs, floats, strict=True):
            if not is_float:
                own.copy_(other)
