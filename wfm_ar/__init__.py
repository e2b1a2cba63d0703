"""wfm-ar: an open, trainable, autoregressive discrete-token world foundation model.

`import wfm_ar` is quick: torch is imported on the first use of `load_world`.
"""

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
