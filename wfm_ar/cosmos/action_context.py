"""A whole action as one context token: how the published training code conditions on actions by cross-attention.

No published checkpoint uses it, and our own worlds have actions as tokens of the row (sequence.py). It is here so that such a
checkpoint would run: the action vector becomes one token, which stands `action_dim` times in the context.
"""

import torch
from torch import Tensor, nn


class ActionContext(nn.Module):
    """Linear, ReLU, Linear; float actions [B, A] -> context [B, A, C] in the weights' dtype (bf16 as published)."""

    def __init__(self, action_dim: int, hidden: int, context_dim: int) -> None:
        super().__init__()
        self.repeats = action_dim
        self.layers = nn.Sequential(nn.Linear(action_dim, hidden), nn.ReLU(), nn.Linear(hidden, context_dim))

    def token(self, action_BA: Tensor) -> Tensor:
        """[B, 1, C]; behind the text tokens of a context, where the action is joined to a text."""
        return self.layers(action_BA.to(next(self.layers.parameters()).dtype)).unsqueeze(1)

    def forward(self, action_BA: Tensor) -> Tensor:
        return self.token(action_BA).expand(-1, self.repeats, -1)


def group_mask(mode: str, length: int, groups: int) -> Tensor:
    """bool [length, groups]: which groups' context each token sees: its own group's (`diagonal`), or all up to it (`causal`).

    Tokens belong to groups in equal runs; a rest belongs to the last group.
    """
    assert mode in ("causal", "diagonal")
    own = (torch.arange(length) // max(1, length // groups)).clamp_max(groups - 1)[:, None]
    other = torch.arange(groups)[None]
    return other == own if mode == "diagonal" else other <= own
