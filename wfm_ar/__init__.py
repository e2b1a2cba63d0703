"""wfm-ar: an open, trainable, autoregressive discrete-token world foundation model.

`import wfm_ar` is quick: each public name is imported, torch with it, when it is first used. A forked process computes with one thread.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfm_ar.errors import WfmError
    from wfm_ar.rollout.prompt import Prompt, Rollout
    from wfm_ar.rollout.sampling import SamplingConfig
    from wfm_ar.rollout.stream import WorldStream
    from wfm_ar.rollout.world import World, load_world
    from wfm_ar.simulate.environment import WorldEnv
    from wfm_ar.simulate.goal import GoalPicture
    from wfm_ar.simulate.planner import Plan, PlanConfig, plan

__version__ = "0.2.0"
__all__ = [
    "GoalPicture",
    "Plan",
    "PlanConfig",
    "Prompt",
    "Rollout",
    "SamplingConfig",
    "WfmError",
    "World",
    "WorldEnv",
    "WorldStream",
    "__version__",
    "load_world",
    "plan",
]
_HOME = {  # public name -> the module that it is imported from when it is first used
    "GoalPicture": "simulate.goal",
    "Plan": "simulate.planner",
    "PlanConfig": "simulate.planner",
    "Prompt": "rollout.prompt",
    "Rollout": "rollout.prompt",
    "SamplingConfig": "rollout.sampling",
    "WfmError": "errors",
    "World": "rollout.world",
    "WorldEnv": "simulate.environment",
    "WorldStream": "rollout.stream",
    "load_world": "rollout.world",
    "plan": "simulate.planner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _one_thread_after_fork() -> None:
    """OpenMP's threads do not come along into a forked process, and torch would wait for them for ever."""
    set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_num_threads is not None:
        set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_after_fork)
