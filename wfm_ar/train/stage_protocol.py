"""What the training loop asks of a stage: a network, its batches, its loss, and a look at the held-out split."""

from typing import Protocol

import torch
from torch import nn

Batch = dict[str, torch.Tensor]


class Stage(Protocol):
    """What one stage brings: a network, its batches, its loss, and what to look at."""

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""
        ...

    @property
    def name(self) -> str:
        """The folder of its checkpoints."""
        ...

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """CPU tensors of micro-batch `step`; a pure function of its arguments, callable from a thread."""
        ...

    def clip_ids(self, batch: Batch) -> list[str]:
        """The names of the clips in a batch."""
        ...

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """-> (scalar loss, scalars to log). `generator` is the only randomness allowed."""
        ...

    def validate(self, model: nn.Module, device: torch.device) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """-> (numbers, pictures uint8 [H, W, 3]) of the averaged weights on the held-out split."""
        ...

    # `warning`, where a stage has it: what its last validation must not go by without, "" for nothing
    # `judged_by`, where a stage has it: (the number of `validate` that says how good it is, 1 where more is better, else -1)
    # `to_decode`, where a stage has it: see TimeLeft

    def describe(self) -> dict:
        """JSON that a checkpoint carries: the network's configuration and what the data were."""
        ...
