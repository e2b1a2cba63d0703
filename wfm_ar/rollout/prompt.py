"""What goes into a rollout and what comes out of it, with the time it took; the same for every kind of world."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.video import write_video

EMBEDDING_SUFFIXES = (".safetensors", ".npy")  # of a text that is a file of T5 embeddings


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What one rollout starts from; everything may be left out."""

    video: np.ndarray | None = None  # uint8 [1 + r*n, H, W, 3], the world's size; one frame is an image
    text: str | None = None
    actions: np.ndarray | None = None  # [N, A], N >= num_frames - 1; action i leads from frame i to i + 1; the rest is not used
    num_frames: int = 49  # of the whole clip, given frames included; 1 + r*n
    seed: int = 0
    imagine: bool = True  # without `actions`: the model imagines them (a policy); False leaves them out

    def __repr__(self) -> str:
        arrays = {"video": self.video, "actions": self.actions}
        given = [f"{name}={array.dtype}{list(array.shape)}" for name, array in arrays.items() if array is not None]
        words = [f"text={self.text!r}"] if self.text is not None else []
        return f"Prompt({', '.join([*words, *given, f'num_frames={self.num_frames}', f'seed={self.seed}', f'imagine={self.imagine}'])})"


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A finished clip. The first `given_frames` frames are the prompt's."""

    frames: np.ndarray  # uint8 [T, H, W, 3], what is shown: refined and with the given picture's detail kept, where that was asked for
    raw_frames: np.ndarray  # uint8 [T, H, W, 3], as the tokenizer decodes the tokens and nothing else, given frames too
    tokens: np.ndarray  # int64 [t, h, w]
    actions: np.ndarray | None  # float32 [T - 1, A]: given, or imagined; NaN between given frames whose actions nobody knows
    given_frames: int
    clipped_actions: int  # given values outside their channel's range
    seed: int
    fps: float
    refined: bool = False  # `frames` went through the diffusion decoder
    kept_detail: bool = False  # in `frames` the given picture itself stands where nothing moves (detail.py)
    # seconds of each part of the whole batch (decoding and refining may run beside rolling), and rates; of this clip alone
    # passes_per_latent and, where tokens were drafted, draft_acceptance
    timings: dict[str, float] = field(default_factory=dict)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes `frames` as a video: .mp4, .mov, .mkv, .avi or .gif. Raises BadClip, OutputExists, NoSpace."""
        write_video(path, self.frames, self.fps, overwrite=overwrite)

    def __repr__(self) -> str:
        frames, height, width = self.frames.shape[:3]
        acted = "no actions" if self.actions is None else f"{self.actions.shape[1]} action channels"
        made = ["refined"] * self.refined + ["given detail kept"] * self.kept_detail
        about = [f"{frames} frames of {width}x{height}", f"{self.fps:g} a second", f"{self.given_frames} given", acted, *made]
        return f"<Rollout: {', '.join(about)}, seed {self.seed}>"


class Clock:
    """Adds up the seconds between laps by name."""

    def __init__(self) -> None:
        self.begun = self.last = time.perf_counter()
        self.seconds: Any = Counter()  # of floats

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now

    def summary(self, *, tokens: int, frames: int) -> dict[str, float]:
        """Seconds by part and in all; rates over the video tokens and frames that were made, where there are any."""
        out = {f"{name}_s": value for name, value in self.seconds.items()} | {"total_s": self.last - self.begun}
        if frames:
            out["ms_per_token"] = 1e3 * self.seconds["roll"] / tokens
            out["frames_per_s"] = frames / out["total_s"]
        return out


def counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    made = 0

    def tell(count: int) -> None:
        nonlocal made
        made += count
        if progress is not None:
            progress(made, total)

    return tell


def given_frames(video: np.ndarray | None) -> int:
    return 0 if video is None else len(video)
