"""The layers of a model over a few tokens a row behind a KV cache: one loop over a table of ops.

decode_step.py has the ops of a CPU and kernel_step.py those of CUDA. What an op does with rows, caches and plans is its own affair;
the order of norms, products and residual sums is written here and nowhere else (`Block.forward` says the same with gradients).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Product = Callable[[Tensor], Tensor]  # x W^T


class Layer(NamedTuple):
    """One layer's weights, in the form that the ops take."""

    attention_norm: Tensor
    qkv: Product
    head_norm: Any  # weights of the norms of queries and keys
    out: Product
    cross_norm: Tensor | None  # of a layer that attends to a text, as the next one
    cross: Any  # what the ops need for cross-attention; None = the layer has none
    ffn_norm: Tensor
    gate_up: Product
    down: Product


class Ops(Protocol):
    """What one kind of device does with the tokens of a pass. The leading axes of all tensors are the ops' own."""

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm of [..., D]."""
        ...

    def add_norm(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(RMS norm of x + y, x + y)."""
        ...

    def attend(self, index: int, layer: Layer, qkv: Tensor) -> Tensor:
        """Norms and turns queries and keys, puts keys and values into the cache, and reads it: [..., N * K]."""
        ...

    def cross(self, index: int, layer: Layer, normed: Tensor) -> Tensor:
        """Cross-attention to the text of each row, [..., D]; asked only of a layer that has it."""
        ...

    def glu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up."""
        ...


def run_layers(x: Tensor, layers: Sequence[Layer], last_norm: Tensor, ops: Ops, added: Tensor | None = None) -> Tensor:
    """Embedded tokens [..., D] through all layers -> what the head reads, [..., D].

    added: positions that the model adds before every layer; before the first they are in `x` already.
    """
    normed = ops.norm(x, layers[0].attention_norm)
    following = [*(layer.attention_norm for layer in layers[1:]), last_norm]
    for index, (layer, next_norm) in enumerate(zip(layers, following, strict=True)):
        y = layer.out(ops.attend(index, layer, layer.qkv(normed)))
        if layer.cross is not None and layer.cross_norm is not None:
            normed, x = ops.add_norm(y, x, layer.cross_norm)
            y = ops.cross(index, layer, normed)
        normed, x = ops.add_norm(y, x, layer.ffn_norm)
        y = layer.down(ops.glu(layer.gate_up(normed)))
        if added is not None and index + 1 < len(layers):
            y = y + added
        normed, x = ops.add_norm(y, x, next_norm)
    return normed
