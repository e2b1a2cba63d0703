"""`wfm plan`: a picture of what is there and one of what is wanted in, the actions that lead from one to the other out."""

import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wfm_ar.data.claims import claim
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import read_image
from wfm_ar.data.views import turned
from wfm_ar.errors import BadConfig, WfmError
from wfm_ar.rollout.find_world import find_world, samples_of
from wfm_ar.rollout.pictures import at_world_size
from wfm_ar.simulate.goal import GoalPicture
from wfm_ar.simulate.planner import Plan, PlanConfig, plan
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.inputs import refuse_inputs
from wfm_ar.verbs.outputs import files_of, how_made, made_already, new_output, refuse_existing_outputs, write_rollout
from wfm_ar.verbs.prompts import Request, read_prompt, refuse_missing

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World

SAMPLING = ("temperature", "top_p", "top_k", "action_temperature", "text_guidance", "action_guidance")


@dataclass(frozen=True, kw_only=True)
class Settings(PlanConfig):
    """The keys of conf/plan.yaml, which explains them."""

    world: str
    image: Path | None
    goal: Path | None
    data: Path | None
    episode: str | None
    camera: str | None
    fps: float | None
    flip: str | None
    crop: str | None
    embodiment: str | None
    text: str | None
    frames: int
    seed: int
    out: Path | None
    temperature: float
    top_p: float | None
    top_k: int | None
    action_temperature: float
    text_guidance: float | None
    action_guidance: float | None
    device: Literal["auto", "cpu", "cuda"]
    overwrite: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.goal is None and self.image is not None:
            raise BadConfig(f"goal: got none beside image {self.image}, expected a picture of what is wanted; fix: goal=wanted.png")


def run(settings: Settings) -> int:
    """Looks for the actions, writes them and what the world imagines of them, and says how near they come."""
    find_world(settings.world)  # which raises
    out = settings.out or new_output("plan", ".mp4")
    settings = replace(settings, out=out)
    inputs = {key: getattr(settings, key) for key in ("world", "image", "goal", "data")}
    refuse_inputs(files_of(out), inputs)
    with claim(out):
        return _run(settings, out)


def _run(settings: Settings, out: Path) -> int:
    if not out.with_suffix(".json").exists():  # else what it says is looked at below
        refuse_existing_outputs(out, settings.overwrite)
    keys = ("image", "episode", "camera", "fps", "flip", "crop", "text", "frames", "seed")
    data = settings.data if settings.data or settings.image else samples_of(settings.world)
    request = Request(**{key: getattr(settings, key) for key in keys}, data=data, drive=False)
    refuse_missing(request)
    if settings.goal is not None and not settings.goal.exists():
        read_image(settings.goal)  # which raises
    from wfm_ar.rollout.world import load_world  # brings torch, a second and more: once all that can be wrong without it is right

    world = load_world(settings.world, device_named(settings.device), embodiment=settings.embodiment)
    request, prompt, told = read_prompt(request, world, imagine=True)
    if told:
        print(f"{request.image or request.episode}: {told}")
    about = how_made(settings.world, world, settings.device) | {"prompt": asdict(request), "settings": asdict(settings)}
    if made_already(out, about, settings.overwrite):
        return 0
    assert prompt.video is not None, "a plan begins at a picture"
    goal = GoalPicture(picture=_goal(settings, request, world), last=world.rate)
    try:
        found = plan(
            world,
            prompt.video,
            goal,
            num_frames=prompt.num_frames,
            text=prompt.text,
            seed=prompt.seed,
            config=PlanConfig(**{field.name: getattr(settings, field.name) for field in fields(PlanConfig)}),
            progress=_progress if sys.stderr.isatty() else None,
            **{key: getattr(settings, key) for key in SAMPLING},
        )
    except WfmError as error:
        own = error.inner if error.number is not None and error.inner is not None else error  # every future has the same prompt
        raise own.reworded("num_frames", "frames") from None
    start = goal(prompt.video)
    distance = found.cost - settings.read_back * (found.apart or 0.0)
    title = f"planned from the first frame to the goal, distance {start:.1f} -> {distance:.1f} grey levels"
    rows = [("goal", goal.picture[None])]
    files = write_rollout(
        out, found.rollout, about | _outcome(found, start, distance), title=title, more_rows=rows, overwrite=settings.overwrite
    )
    by = "the world's policy proposed it" if found.proposed else "found by search"
    beside = ", ".join(file.name for file in files[1:])
    read = "" if found.apart is None else f"; actions read back from it are {100 * found.apart / 2:.0f} % of their range off"
    ends = f"; its first {len(found.actions)} actions count, what is read off it later is too far off" if found.stopped else ""
    nearer = f", {1 - distance / start:.0%} nearer" if 0 < distance < start else ""
    told = f"distance to the goal {start:.1f} grey levels (of 255) at first, {distance:.1f} as imagined{nearer} ({by}){read}{ends}"
    print(f"{files[0]}: {told}; beside it {beside}")
    return 0


def _goal(settings: Settings, request: Request, world: "World") -> np.ndarray:
    """uint8 [H, W, 3] of the world's size: the picture given, or what the episode shows at the plan's last frame."""
    if settings.goal is not None:
        frame_1HWC = turned(read_image(settings.goal), settings.flip)
    else:
        assert request.data is not None, "the picture of the end comes from an episode"
        episodes = open_episodes(request.data, camera=request.camera, fps=request.fps, flip=request.flip)
        i = next(i for i, episode in enumerate(episodes) if episode.id == request.episode)
        if settings.frames > (there := episodes.num_frames(i)):
            most = 1 + world.rate * ((there - 1) // world.rate)
            told = f"frames: got {settings.frames}, but episode {request.episode} has {there}, expected at most that without a goal"
            raise BadConfig(f"{told}; fix: frames={most}, or goal=wanted.png")
        frame_1HWC = episodes.load_frames(i, settings.frames - 1, 1)
    return at_world_size(frame_1HWC, world, request.crop, "goal")[0]


def _outcome(found: Plan, start: float, distance: float) -> dict[str, Any]:
    return {
        "actions": "planned",
        "cost_unit": "grey levels, 0 to 255: picture_distance of the last frames to the goal, and what read_back adds",
        "cost_at_first": start,
        "cost": found.cost,
        "distance": distance,
        "proposed_by_policy": found.proposed,
        "actions_that_count": len(found.actions),
        "read_back": found.apart,
        "costs_of_rounds": [costs.round(3).tolist() for costs in found.costs],
    }


def _progress(done: int, total: int) -> None:
    print(f"\r{done}/{total} futures", end="\n" if done == total else "", file=sys.stderr, flush=True)
