"""wfm-ar: an open, trainable, autoregressive discrete-token world foundation model.

`import wfm_ar` is quick: torch is imported on the first use of `load_world`. A forked process computes with one thread.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfm_ar.rollout.world import load_world

__version__ = "0.1.0"
__all__ = ["__version__", "load_world"]


def __getattr__(name: str) -> Any:
    if name == "load_world":
        from wfm_ar.rollout.world import load_world

        return load_world
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _one_thread_after_fork() -> None:
    """OpenMP's threads do not come along into a forked process, and torch would wait for them for ever."""
    set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_num_threads is not None:
        set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_after_fork)
