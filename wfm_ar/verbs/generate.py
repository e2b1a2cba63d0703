"""`wfm generate`: prompts in, imagined clips out. Nothing numeric: files to prompts, the world, rollouts to files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wfm_ar.data.claims import claim, tidy_up
from wfm_ar.data.set_folder import refuse_set
from wfm_ar.errors import BadConfig, OutputExists, WfmError
from wfm_ar.rollout.find_world import find_world
from wfm_ar.rollout.prompt import Prompt, Rollout
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.inputs import refuse_inputs
from wfm_ar.verbs.outputs import files_of, how_made, made_already, new_output, refuse_existing_outputs, write_rollout
from wfm_ar.verbs.prompts import Request, read_prompt, read_requests, refuse_missing
from wfm_ar.verbs.rollout_set import write_rollouts

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World

INPUTS = ("video", "image", "text", "actions", "data")  # keys of a request that may be files
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "action_temperature",
    "image_temperature",
    "image_top_p",
    "text_guidance",
    "action_guidance",
)
REFINING = ("refine", "refine_steps", "published")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/generate.yaml, which explains them."""

    world: str
    video: Path | None
    image: Path | None
    text: str | None
    actions: Path | None
    data: Path | None
    episode: str | None
    camera: str | None
    fps: float | None
    flip: str | None
    crop: str | None
    drive: bool
    embodiment: str | None
    frames: int
    prompt_frames: int | None
    prompt_fps: float | None
    seed: int
    out: Path | None
    save: Literal["files", "lerobot"]
    batch: Path | None
    batch_size: int
    imagine: bool
    refine: bool
    refine_steps: int | None
    published: bool
    keep_detail: bool
    temperature: float | None
    top_p: float | None
    top_k: int | None
    action_temperature: float | None
    image_temperature: float | None
    image_top_p: float | None
    text_guidance: float | None
    action_guidance: float | None
    device: Literal["auto", "cpu", "cuda"]
    offload: tuple[str, ...]
    int8: tuple[str, ...]
    decoding: str | None
    text_encoder: str | None
    height: int | None
    width: int | None
    overwrite: bool

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise BadConfig(f"batch_size: got {self.batch_size}, expected at least 1; fix: 16 is a good value")


def run(settings: Settings) -> int:
    """Makes the clip, or one a line of the batch file, and says where the files are."""
    find_world(settings.world)  # which raises
    target = settings.out or new_output("generate", ".mp4" if settings.batch is None and settings.save == "files" else "")
    settings = replace(settings, out=target)
    requests = _requests(settings, target)
    outputs = [target] if settings.save == "lerobot" else [file for _, _, out in requests for file in files_of(out)]
    for inputs in [{"world": settings.world, "batch": settings.batch}, *({key: getattr(r, key) for key in INPUTS} for r, _, _ in requests)]:
        refuse_inputs(outputs, inputs)
    if settings.save == "lerobot":
        refuse_set(target, settings.overwrite)
        return _run(settings, target, requests)
    with claim(target if settings.batch is None else target / "batch"):
        tidy_up(target, [out.name for _, _, out in requests])
        for _, _, out in requests:
            if not out.with_suffix(".json").exists():  # else what it says is looked at when its prompt is known
                refuse_existing_outputs(out, settings.overwrite)
        return _run(settings, target, requests)


def _run(settings: Settings, target: Path, requests: list[tuple[Request, str, Path]]) -> int:
    for request, where, _ in requests:
        with _named(where):
            refuse_missing(request)
    from wfm_ar.rollout.action_reading import apart_by_latent
    from wfm_ar.rollout.world import load_world  # brings torch, a second and more: once all that can be wrong without it is right

    how = {key: getattr(settings, key) for key in ("embodiment", "offload", "int8", "decoding", "text_encoder")}
    world = load_world(settings.world, device=device_named(settings.device), **how)
    if settings.height is not None or settings.width is not None:
        height, width = settings.height, settings.width
        world = world.at_size(world.height if height is None else height, world.width if width is None else width)
    _refuse_without_effect(settings, world)
    left = {key: value for key, value in world.defaults(settings.top_k).items() if getattr(settings, key) is None}
    settings = replace(settings, **left)
    prompts: list[Prompt] = []
    waiting: list[tuple[Request, str, Path]] = []
    for request, where, out in requests:
        with _named(where):
            request, prompt, fitted = read_prompt(request, world, settings.imagine)
        if fitted:
            print(f"{request.video or request.image or request.episode}: {fitted}")
        if settings.save == "files" and made_already(out, _about(settings, request, world), settings.overwrite):
            continue
        waiting.append((request, where, out))
        prompts.append(prompt)
    made = _made(world, prompts, waiting, settings)
    if settings.save == "lerobot":
        count = write_rollouts(target, made, world, settings.embodiment, overwrite=settings.overwrite)
        print(f"{target}: LeRobot v3.0, {count} imagined episode{'s' * (count != 1)}; `wfm train data={target}` reads them")
        return 0
    for request, out, rollout, about in made:
        title = _title(request, rollout, about["actions"])
        apart = apart_by_latent(world, rollout.raw_frames, rollout.actions)
        about |= {} if apart is None else {"read_back": apart}
        with nullcontext() if settings.batch is None else claim(out):  # a row may be another process's only clip
            files = write_rollout(out, rollout, about, title=title, overwrite=settings.overwrite)
        print(_told(rollout, files) + _told_reading(apart))
    return 0


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors begin with the line of the batch file that they are of."""
    try:
        yield
    except WfmError as error:
        raise error.within(where) if where else error from None


def _made(
    world: "World", prompts: list[Prompt], requests: list[tuple[Request, str, Path]], settings: Settings
) -> Iterator[tuple[Request, Path, Rollout, dict[str, Any]]]:
    """Each request with its mp4, its rollout and how to make it again, as they are rolled out batch by batch."""
    for first in range(0, len(prompts), settings.batch_size):
        part = slice(first, first + settings.batch_size)
        rollouts = _roll(world, prompts[part], [where for _, where, _ in requests[part]], settings)
        for (request, _, out), prompt, rollout in zip(requests[part], prompts[part], rollouts, strict=True):
            acting = "given" if prompt.actions is not None else "imagined" if rollout.actions is not None else "no"
            yield request, out, rollout, _about(settings, request, world) | {"actions": acting}


def _requests(settings: Settings, target: Path) -> list[tuple[Request, str, Path]]:
    """(request, how its errors begin, its mp4)."""
    given = ("text", "video", "image", "actions", "data", "episode", "camera", "fps", "flip", "crop", "prompt_fps")
    values = {key: getattr(settings, key) for key in (*given, "drive", "frames", "prompt_frames", "seed")}
    if settings.batch is None:
        return [(Request(**values), "", target)]
    if settings.save == "files" and target.exists() and not target.is_dir():
        raise OutputExists(f"{target}: is a file, expected a folder for the batch; fix: choose another out=")
    beside = [key for key in given if values[key] is not None]
    if beside:
        raise BadConfig(f"batch: got {beside[0]}= beside it, expected it in the lines of {settings.batch}; fix: move it there")
    defaults = {key: values[key] for key in ("frames", "seed", "drive")}
    lines = read_requests(settings.batch, defaults)
    return [(request, where, target / f"{request.id}.mp4") for request, where in lines]


def _roll(world: "World", prompts: list[Prompt], places: list[str], settings: Settings) -> list[Rollout]:
    """Rolls the rows together; the world's errors get the words of the command line."""
    try:
        sampling: dict[str, Any] = {key: getattr(settings, key) for key in (*SAMPLING, *REFINING)}
        sampling["keep_detail"] = None if settings.keep_detail else False  # as the world has it
        return world.generate_batch(prompts, **sampling, progress=_progress if sys.stderr.isatty() else None)
    except WfmError as error:
        own, place = error, places[0] if len(prompts) == 1 else ""
        if error.inner is not None and error.number is not None:
            own, place = error.inner, places[error.number]
        own = own.reworded("num_frames", "frames")
        raise own.within(place) if place else own from None


def _refuse_without_effect(settings: Settings, world: "World") -> None:
    """Raises BadConfig for settings of what the world does not have."""
    for name, expected, there, why in (
        ("action_temperature", "none", world.sequence.predicts_actions, "imagines no actions"),
        ("text_guidance", "1", world.takes_text, "takes no text"),
        ("action_guidance", "1", world.action_schema is not None, "takes no actions"),
    ):
        got = getattr(settings, name)
        if got is not None and f"{got:g}" != expected and not there:
            raise BadConfig(f"{name}: got {got}, expected {expected}: world {world.name!r} {why}; fix: leave it out")


def _about(settings: Settings, request: Request, world: "World") -> dict[str, Any]:
    """Everything that is needed to make the clip again."""
    return how_made(settings.world, world, settings.device) | {"prompt": asdict(request), "settings": asdict(settings)}


def _title(request: Request, rollout: Rollout, acting: str) -> str:
    given = {0: "from nothing", 1: "from one frame"}.get(rollout.given_frames, f"from {rollout.given_frames} frames")
    return f'"{request.text}", {given}, {acting} actions' if request.text else f"{given}, {acting} actions"


def _told(rollout: Rollout, files: list[Path]) -> str:
    rate = rollout.timings.get("frames_per_s")
    speed = f", made at {rate:.1f} frames/s" if rate else ""
    clipped = f"; {rollout.clipped_actions} action values were out of range and clipped" if rollout.clipped_actions else ""
    unknown = rollout.actions is not None and np.isnan(rollout.actions).any() and "; NaN actions stand between given frames" or ""
    beside = ", ".join(file.name for file in files[1:])
    length = f"{len(rollout.frames)} frames at {rollout.fps:g} a second ({len(rollout.frames) / rollout.fps:.1f} s)"
    return f"{files[0]}: {length}, {rollout.given_frames} given{speed}{clipped}{unknown}; beside it {beside}"


def _told_reading(apart: list[float | None] | None) -> str:
    """How much of what was told is seen in the pictures, by the world's own reading of actions."""
    known = [value for value in apart or () if value is not None]
    if apart is None or not known:
        return ""
    worst = int(np.argmax([-1.0 if value is None else value for value in apart]))
    return f"; actions read back from it are {100 * float(np.mean(known)) / 2:.0f} % of their range off, most at latent {worst + 1}"


def _progress(made: int, total: int) -> None:
    print(f"\r{made}/{total} latents", end="\n" if made == total else "", file=sys.stderr, flush=True)
