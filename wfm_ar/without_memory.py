"""Networks without memory for their weights: for names, shapes and counts, before any of it is trusted or paid for.

Torch's meta device alone would do, but the first weights that a constructor draws there run through decompositions written in
Python, which import torch's compiler and sympy: two to three seconds of every command that opens a world.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWN = ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_")


class _NothingDrawn(TorchFunctionMode):
    """Tensors stay as they are where random numbers would be put into them."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWN:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are made inside have parameters and buffers on the meta device: sizes, and no numbers."""
    with torch.device("meta"), _NothingDrawn():
        yield
