"""`wfm tokenize`: a clip to tokens, or tokens back to the clip they hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wfm_ar.data.files import refuse_existing
from wfm_ar.data.video import read_video, resize_crop, write_video
from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.rollout.world import World, load_world
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.outputs import write_array


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/tokenize.yaml, which explains them."""

    world: str
    video: Path | None
    tokens: Path | None
    frames: int | None
    out: Path
    device: Literal["auto", "cpu", "cuda"]
    overwrite: bool

    def __post_init__(self) -> None:
        if (self.video is None) == (self.tokens is None):
            raise BadConfig(
                "video and tokens: expected exactly one of them; fix: video=in.mp4 out=tokens.npy, or tokens=tokens.npy out=out.mp4"
            )
        suffix = ".npy" if self.video else ".mp4"
        if self.out.suffix != suffix:
            raise BadConfig(f"out: got {self.out}, expected a name that ends in {suffix}; fix: out={self.out.with_suffix(suffix)}")


def run(settings: Settings) -> int:
    """Writes the tokens or the clip."""
    refuse_existing(settings.out, settings.overwrite)
    world = load_world(settings.world, device=device_named(settings.device))
    if settings.video:
        tokens = world.encode(_frames(settings, world))
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        write_array(settings.out, tokens, overwrite=settings.overwrite)
        print(f"{settings.out}: tokens {list(tokens.shape)} [t, h, w], {len(np.unique(tokens))} different ones")
        return 0
    frames = world.decode(_tokens(settings.tokens))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_video(settings.out, frames, world.fps, overwrite=settings.overwrite)
    print(f"{settings.out}: {len(frames)} frames of {world.height}x{world.width}")
    return 0


def _frames(settings: Settings, world: World) -> np.ndarray:
    frames = read_video(settings.video, 0, settings.frames)
    if frames.shape[1:3] != (world.height, world.width):
        print(f"{settings.video}: {frames.shape[1]}x{frames.shape[2]} cropped and resized to {world.height}x{world.width}")
        frames = resize_crop(frames, world.height, world.width)
    return frames


def _tokens(path: Path) -> np.ndarray:
    try:
        tokens = np.load(path, allow_pickle=False)
        assert isinstance(tokens, np.ndarray)
    except Exception as error:  # numpy raises a dozen kinds for damaged files
        raise BadPrompt(f"{path}: cannot be read ({error}), expected .npy of [t, h, w]; fix: make it with wfm tokenize") from None
    return tokens
