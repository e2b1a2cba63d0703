"""From what a caller has at hand to a prompt: files, PIL images and arrays of any size, made the world's as the command line does."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wfm_ar.data.video import read_frames, read_image
from wfm_ar.errors import BadClip, BadConfig, BadPrompt, Note, WfmError, nearest
from wfm_ar.rollout.pictures import Shown, at_world_size, numbers_at_rate, told_of
from wfm_ar.rollout.prompt import Prompt
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.video_codec import VideoCodec

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
INPUTS = ("video", "image", "crop", "text", "actions", "num_frames", "seed", "imagine")


class Prompted(Shown, Protocol):
    """What of a world a prompt is made for."""

    codec: VideoCodec

    @property
    def default_frames(self) -> int: ...


def prompt_of(given: Prompt | Mapping[str, Any], world: Prompted, number: int | None = None) -> Prompt:
    """A prompt as it is, or from inputs by name; number: of several, which errors then name.

    video, image: one of them: a file, a PIL image, or an array, uint8 RGB [T, H, W, 3] or [H, W, 3], of any size. A file of a video is
    taken at the world's rate, and pictures become the world's size, with a Note that says how; a world that works at any size has
    them as they are. crop: what is kept of a picture of another size (framing.py); None = as in the world's training. num_frames:
    None = the world's. The others are those of Prompt. Raises BadClip, BadPrompt, BadConfig.
    """
    if isinstance(given, Prompt):
        return given
    try:
        for key in given:
            if key not in INPUTS:
                raise BadPrompt(f"{key}: is no input{nearest(str(key), INPUTS)}, expected some of {', '.join(INPUTS)}; fix: leave it out")
        inputs = dict(given)
        image, crop = inputs.pop("image", None), inputs.pop("crop", None)
        if image is not None and inputs.get("video") is not None:
            raise BadPrompt("video and image: got both, expected one of them; fix: leave one out")
        what = "video" if image is None else "image"
        if (pictures := inputs.get("video") if image is None else image) is not None:
            frames_THWC = _frames(pictures, world, what)
            inputs["video"] = frames_THWC if world.codec.any_size else _fitted(frames_THWC, world, crop, what)
        if inputs.get("num_frames") is None:
            inputs["num_frames"] = world.default_frames
        return Prompt(**inputs)
    except WfmError as error:
        raise error if number is None else error.within(f"prompt {number}", number) from None


def sampling_of(given: SamplingConfig | None, settings: Mapping[str, Any], own: Mapping[str, Any]) -> SamplingConfig:
    """How tokens are drawn: as `given`, or by the world's `own` settings where it is None; `settings` by name that are not None go before.

    Raises BadConfig.
    """
    if given is not None and not isinstance(given, SamplingConfig):
        fix = "sampling=SamplingConfig(top_p=0.9)"
        raise BadConfig(where="sampling", got=type(given).__name__, expected="a SamplingConfig", fix=fix)
    chosen = {name: value for name, value in settings.items() if value is not None}
    return SamplingConfig(**{**own, **chosen}) if given is None else replace(given, **chosen)


def _frames(given: Any, world: Prompted, what: str) -> np.ndarray:
    """Pictures of their own size, uint8 [T, H, W, 3]."""
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        if what == "image" or path.suffix.lower() in IMAGE_SUFFIXES:
            return read_image(path)
        told: list[str] = []
        frames_THWC = read_frames(path, numbers_at_rate(path, world, None, told))
        for line in told:
            warnings.warn(Note(f"{path}: {line}"), stacklevel=5)
        return frames_THWC
    if callable(getattr(given, "convert", None)):  # a PIL image
        given = given.convert("RGB")
    frames = np.asarray(given)
    frames_THWC = frames[None] if frames.ndim == 3 else frames
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != np.uint8:
        expected = "a file, a PIL image, or uint8 [H, W, 3] or [T, H, W, 3] of RGB values 0..255"
        raise BadClip(f"{what}: got {frames.dtype} {list(frames.shape)}, expected {expected}; fix: convert it")
    if what == "image" and len(frames_THWC) != 1:
        raise BadPrompt(f"image: got {len(frames_THWC)} pictures, expected one; fix: video= takes several")
    return frames_THWC


def _fitted(frames_THWC: np.ndarray, world: Prompted, crop: str | None, what: str) -> np.ndarray:
    """Pictures of the world's size."""
    if 0 in frames_THWC.shape:  # nothing to resize: the world refuses it
        return frames_THWC
    if line := told_of(frames_THWC, world, crop, what):
        warnings.warn(Note(f"{what}: {line}"), stacklevel=5)
    return at_world_size(frames_THWC, world, crop, what)
