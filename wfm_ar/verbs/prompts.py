"""From files and words to the prompts of a world: one from the command line, or one a line of a JSONL file.

What is given is a video, an image, or an episode of a data set. Promises that every file is found, whole and of the right kind
before a world is asked to do anything. It knows files; what a prompt may hold is the world's to say.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wfm_ar.config import build
from wfm_ar.data.arrays import read_npy
from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.episodes_jsonl import LINE_BYTES
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.hub import DATASETS, address_of
from wfm_ar.data.json_files import parse_json, read_bytes
from wfm_ar.data.schema_file import SCHEMA, read_schema
from wfm_ar.data.video import read_frames, read_image, video_info
from wfm_ar.data.views import check_flip, thinned, turned
from wfm_ar.errors import BadActions, BadClip, BadConfig, BadData, BadPrompt, WfmError, nearest
from wfm_ar.framing import area_of
from wfm_ar.rollout.pictures import at_world_size, numbers_at_rate, told_of
from wfm_ar.rollout.prompt import EMBEDDING_SUFFIXES, Prompt
from wfm_ar.schema import ActionSchema, MixedSchema, same_rate

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World

LIST_BYTES = 64 << 20  # of a file of prompts


@dataclass(frozen=True, kw_only=True)
class Request:
    """One clip to make, as a user writes it."""

    id: str = ""
    text: str | None = None
    video: Path | None = None
    image: Path | None = None
    actions: Path | None = None
    data: Path | None = None
    episode: str | None = None
    camera: str | None = None
    fps: float | None = None
    flip: str | None = None
    crop: str | None = None
    drive: bool = True
    frames: int = 49
    prompt_frames: int | None = None
    prompt_fps: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.video and self.image:
            raise BadConfig(f"video and image: got both ({self.video}, {self.image}), expected one of them; fix: leave one out")
        if self.data and (self.video or self.image):
            raise BadConfig(f"data: got {self.data} beside {self.video or self.image}, expected one of them; fix: leave one out")
        for key in ("episode", "camera", "fps"):
            if getattr(self, key) is not None and not self.data:
                raise BadConfig(f"{key}: got {getattr(self, key)!r} but no data set to read, expected data=; fix: leave it out")
        check_flip(self.flip)
        if self.flip and not (self.data or self.video or self.image):
            raise BadConfig(f"flip: got {self.flip} but no picture to turn, expected video=, image= or data=; fix: leave it out")
        if self.prompt_fps is not None and not self.video:
            raise BadConfig(f"prompt_fps: got {self.prompt_fps:g} but no video, expected video=; fix: leave it out")
        if self.prompt_fps is not None and not (self.prompt_fps > 0 and math.isfinite(self.prompt_fps)):
            raise BadConfig(f"prompt_fps: got {self.prompt_fps}, expected a number above 0; fix: give the video's frames a second")
        if self.crop is not None and not (self.video or self.image or self.data):
            raise BadConfig(f"crop: got {self.crop!r} but no picture, expected video=, image= or data=; fix: leave it out")
        if self.crop is not None:
            area_of(self.crop)  # which raises
        if self.prompt_frames is not None and not self.video and not self.data:
            raise BadConfig("prompt_frames: got a number but no video to count in, expected video= or data=; fix: leave it out")
        if self.prompt_frames is not None and self.prompt_frames < 1:
            raise BadConfig(f"prompt_frames: got {self.prompt_frames}, expected at least 1; fix: leave it out for none at all")


def read_requests(path: Path, defaults: Mapping[str, Any]) -> list[tuple[Request, str]]:
    """The lines of a JSONL file -> (request, "file line n"). Paths are relative to the file; ids default to the line's number.

    Raises BadPrompt, naming the line, for anything but objects of known keys with ids of their own.
    """
    try:
        lines = read_bytes(path, LIST_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise BadPrompt(f"{path}: cannot be read ({error}), expected a JSONL file; fix: check the path") from None
    requests, first = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            if len(line) > LINE_BYTES:
                raise ValueError(f"a line of {len(line)} bytes, at most {LINE_BYTES} are taken")
            values = parse_json(line.decode())
        except ValueError as error:
            raise BadPrompt(f"{where}: is not JSON ({error}), expected one object a line; fix: write it with a JSON library") from None
        if not isinstance(values, dict):
            raise BadPrompt(f'{where}: got {line.decode().strip():.40}, expected an object such as {{"text": "push left"}}; fix: write one')
        values = {"id": f"{number:04d}", **values}
        for key in ("video", "image", "actions", "data"):
            if isinstance(values.get(key), str):
                values[key] = str(path.parent / values[key])
        if isinstance(text := values.get("text"), str) and text.endswith(EMBEDDING_SUFFIXES):  # embeddings, not words
            values["text"] = str(path.parent / text)
        try:
            request = build(Request, {**defaults, **values}, where)
        except WfmError as error:
            raise BadPrompt(str(error) if error.where.startswith(where) else f"{where}: {error}") from None
        if not request.id or Path(request.id).name != request.id or request.id.startswith("."):
            raise BadPrompt(
                f"{where}: id {request.id!r} cannot be a file name, expected a plain name; fix: leave out slashes and first dots"
            )
        if request.id in first:
            raise BadPrompt(f"{where}: id {request.id!r} is that of line {first[request.id]} too, expected distinct ids; fix: rename one")
        first[request.id] = number
        requests.append((request, where))
    if not requests:
        raise BadPrompt(f"{path}: is empty, expected one object a line; fix: write a prompt into it")
    return requests


def refuse_missing(request: Request) -> None:
    """Raises, for a file or data set that is not there, what reading it would raise: before anybody waits for a world."""
    if request.image and not request.image.exists():
        read_image(request.image)
    if request.video and not request.video.exists():
        video_info(request.video)
    if request.actions and not request.actions.exists():
        _read_npy(request.actions)
    if request.data and address_of(request.data, DATASETS):  # one on the command line is a folder by now
        raise BadPrompt(f"data: got {str(request.data)!a:.120} in a row, expected a folder; fix: give addresses on the command line")
    if request.data and not any(Path(part).exists() for part in str(request.data).split(os.pathsep)):
        open_episodes(request.data)


def read_prompt(request: Request, world: "World", imagine: bool) -> tuple[Request, Prompt, str]:
    """The request with what its data set told, the world's prompt, and what was done to its frames ('' where they fitted).

    Raises BadClip, BadActions, BadPrompt.
    """
    video, actions, told = None, None, []
    if request.data:
        request, video, actions = _read_episode(request, world, told)
    elif request.image:
        video = turned(read_image(request.image), request.flip)
    elif request.video:
        video = turned(_read_clip(request, world, told), request.flip)
    if video is not None:
        where = str(request.video or request.image or request.data)
        if line := told_of(video, world, request.crop, where):
            told.append(line)
        video = at_world_size(video, world, request.crop, where)
    actions = _read_actions(request.actions, world) if request.actions else actions
    prompt = Prompt(video=video, text=request.text, actions=actions, num_frames=request.frames, seed=request.seed, imagine=imagine)
    return request, prompt, "; ".join(told)


def _read_clip(request: Request, world: "World", told: list[str]) -> np.ndarray:
    """The frames of a video to go on from, at the world's rate. Raises BadClip, BadPrompt."""
    assert request.video is not None
    one = request.prompt_frames == 1  # a picture has no rate
    kept = numbers_at_rate(request.video, world, world.fps if one else request.prompt_fps, told)
    count = len(kept) if request.prompt_frames is None else request.prompt_frames
    if count >= request.frames:
        raise BadPrompt(
            f"{request.video}: gives {count} frames of the {request.frames} asked for, which leaves none to imagine; "
            f"fix: prompt_frames=1 begins from its first frame, or frames={count + 4 * world.rate} goes on longer"
        )
    if count > len(kept):
        got = f"prompt_frames: got {count}, but {request.video} has {len(kept)} frames at the world's {world.fps:g} a second"
        raise BadPrompt(f"{got}, expected at most that; fix: give fewer")
    video = read_frames(request.video, kept[:count])
    rest = (len(video) - 1) % world.rate
    if rest and request.prompt_frames is None:
        fit = len(video) - rest
        raise BadClip(
            f"{request.video}: got {len(video)} frames to go on from, expected 1 + {world.rate}*n; "
            f"fix: prompt_frames={fit} takes the first {fit}"
        )
    return video


def _read_episode(request: Request, world: "World", told: list[str]) -> tuple[Request, np.ndarray, np.ndarray | None]:
    """The request with the episode's id and, where the world reads and none is given, its text; its first frames; its actions where
    it has some, the world takes some, and no file of others is given."""
    assert request.data is not None
    episodes = open_episodes(request.data, camera=request.camera, fps=request.fps, flip=request.flip)
    ids = [episode.id for episode in episodes]
    held_out = next((i for i, episode in enumerate(episodes) if episode.split != "train"), 0)
    if request.episode is not None and request.episode not in ids:
        got = f"episode: got {request.episode!r}{nearest(request.episode, ids)}, expected an id of {request.data}"
        raise BadPrompt(f"{got}, such as {', '.join(ids[:3])}; fix: name one, or leave it out for the first held-out one")
    i = held_out if request.episode is None else ids.index(request.episode)
    count = 1 if request.prompt_frames is None else request.prompt_frames
    if count >= request.frames:
        raise BadPrompt(f"prompt_frames: got {count} of {request.frames} frames, which leaves none to imagine; fix: prompt_frames=1")
    takes = world.parts.action_schema
    driven = request.drive and request.actions is None and takes is not None and episodes[i].actions is not None
    if count > 1 or driven:
        episodes = _at_rate_of(world, episodes, i, told)
    if count > (there := episodes.num_frames(i)):
        raise BadPrompt(f"prompt_frames: got {count}, but episode {ids[i]} has {there} frames, expected at most that; fix: give fewer")
    frames, text, actions = episodes.load_frames(i, 0, count), request.text, None
    if text is None and world.parts.text_tokenizer is not None:
        text = episodes[i].text
    if driven:
        from wfm_ar.rollout.robots import fitted

        episodes = fitted(episodes, world, world.embodiment if isinstance(episodes.schema, ActionSchema) else None)
        if isinstance(takes, MixedSchema) and (robot := episodes[i].embodiment) != world.embodiment:
            got = f"embodiment: got {world.embodiment}, but episode {ids[i]} was acted by {robot!r}, expected that one"
            raise BadPrompt(f"{got}; fix: embodiment={robot}, or drive=false")
        actions = episodes.load_actions(i)
        assert actions is not None, "looked at above"
        if len(actions) < request.frames - 1:
            most = 1 + world.rate * (len(actions) // world.rate)
            got = f"frames: got {request.frames}, but episode {ids[i]} has actions for {most}, expected at most that"
            raise BadPrompt(f"{got}; fix: frames={most}, or drive=false leaves its actions out")
    return replace(request, text=text, episode=ids[i]), frames, actions


def _at_rate_of(world: "World", episodes: EpisodeSet, i: int, told: list[str]) -> EpisodeSet:
    """The set with episode i at the world's rate. Raises BadPrompt for one of a lower rate."""
    rate = episodes[i].fps
    if same_rate(rate, world.fps):
        return episodes
    if rate < world.fps:
        got = f"episode {episodes[i].id} of {episodes.path} has {rate:g} frames a second, expected {world.fps:g} or more, as the world has"
        raise BadPrompt(f"{got}; fix: prompt_frames=1 drive=false begins from its first frame")
    told.append(f"{rate:g} frames a second re-timed to the world's {world.fps:g}")
    return thinned(episodes, world.fps)


def _read_actions(path: Path, world: "World") -> np.ndarray:
    actions = _read_npy(path)
    for folder in (path.parent, path.parent.parent):  # a data set's actions lie in a folder below its schema
        if (folder / SCHEMA).is_file():
            schema = read_schema(folder, needed=True)
            assert schema is not None, "needed"
            world.check_schema(schema, str(folder / SCHEMA))
            break
    if world.action_schema is not None:
        world.action_schema.validate(actions, str(path))
    return actions


def _read_npy(path: Path) -> np.ndarray:
    try:
        return read_npy(path)
    except BadData as error:
        raise BadActions(str(error)) from None
