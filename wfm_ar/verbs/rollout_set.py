"""Rollouts as a LeRobot v3.0 data set, so that what a world imagined can be trained on by whatever reads recorded data.

Every frame says where it comes from, and so does every action; `meta/wfm.json` keeps for each episode what is needed to make it
again. Imagined data never passes for recorded data by accident: the two provenance columns are part of the set.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wfm_ar.data.lerobot_write import Clip, write_lerobot
from wfm_ar.data.provenance import ACTION, DRIVEN, FRAME, GIVEN, IMAGINED, MEANINGS, PROPOSED, REFINED, UNKNOWN
from wfm_ar.rollout.prompt import Rollout
from wfm_ar.verbs.prompts import Request

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World


def write_rollouts(
    root: Path,
    made: Iterable[tuple[Request, Path, Rollout, dict[str, Any]]],
    world: "World",
    robot: str | None,
    *,
    overwrite: bool,
) -> int:
    """Writes the rollouts as they come -> how many. Raises what rolling out raises, BadData, OutputExists, NoSpace."""
    about: dict[str, Any] = {"imagined": True, "world": world.name, "episodes": []}

    def clips() -> Iterator[Clip]:
        for number, (request, _, rollout, how) in enumerate(made):
            name = request.id or f"{number:04d}"
            about["episodes"].append({"id": name, **how, "seconds_and_rates": rollout.timings})
            yield _clip(name, request, rollout, how["actions"] == "given")

    keys: dict[str, Any] = dict(fps=world.fps, schema=world.action_schema, robot=robot, about=about, meanings=MEANINGS)
    return write_lerobot(root, clips(), overwrite=overwrite, **keys)


def _clip(name: str, request: Request, rollout: Rollout, driven: bool) -> Clip:
    count, refined = len(rollout.frames), rollout.refined
    frame = np.where(np.arange(count) < rollout.given_frames, GIVEN, REFINED if refined else IMAGINED).astype(np.int64)
    action = np.full(count, UNKNOWN, np.int64)
    actions = rollout.actions
    if actions is not None:
        known = np.asarray(np.isfinite(actions).all(1))
        action[:-1] = np.where(known, DRIVEN if driven else PROPOSED, UNKNOWN)
        actions = np.where(known[:, None], actions, 0).astype(np.float32)
    columns = {FRAME: frame, ACTION: action}
    return Clip(id=name, split="train", text=request.text, frames=rollout.frames, actions=actions, columns=columns)
