"""What was played, on disk: episodes of one LeRobot v3.0 set with provenance, and clips of single branches as mp4 or GIF.

Episodes are kept as PNG in memory and the set is written anew, whole, whenever one comes: what is on disk is a set that `wfm data check`
passes, at any time. Writing happens on a thread of its own.
"""

import io
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.lerobot_write import Clip, write_lerobot
from wfm_ar.data.provenance import ACTION, DRIVEN, FRAME, GIVEN, IMAGINED, MEANINGS, PROPOSED, REFINED, UNKNOWN
from wfm_ar.data.video import write_video
from wfm_ar.errors import BadPrompt, NoSpace
from wfm_ar.rollout.world import World
from wfm_ar.simulate.play.timeline import Node

EPISODES_BYTES = 512 << 20  # of all recorded episodes, as PNG
CLIP_PIXELS = 400_000_000  # of an mp4 or GIF: its frames are held while it is made
BY = {"given": DRIVEN, "imagined": PROPOSED, "absent": UNKNOWN}


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One recorded path."""

    id: str
    text: str | None
    pictures: tuple[bytes, ...]  # PNG
    actions: np.ndarray | None  # float32 [T - 1, A]
    frame_from: np.ndarray  # int64 [T], provenance
    action_from: np.ndarray  # int64 [T]
    seed: int

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.pictures))


class Recorder:
    """The outputs of one server, in one folder."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, Path(folder)
        self.episodes: list[Episode] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="wfm-play-writer")
        self._writing: Future | None = None
        self._clips = 0

    @property
    def set_path(self) -> Path:
        return self.folder / "episodes"

    @property
    def nbytes(self) -> int:
        return sum(episode.nbytes for episode in self.episodes)

    def add(self, nodes: list[Node], *, text: str | None, seed: int, refined: bool) -> Future:
        """An episode of this path -> how many are on disk once it is; None: a later one was there already, and tells for both.

        Raises BadPrompt, NoSpace.
        """
        episode = _episode(f"{len(self.episodes):06d}", nodes, self.world, text=text, seed=seed, refined=refined)
        if self.nbytes + episode.nbytes > EPISODES_BYTES:
            told = f"record: {len(self.episodes)} episodes of {self.nbytes >> 20} MiB are kept, expected at most {EPISODES_BYTES >> 20} MiB"
            raise NoSpace(f"{told}; fix: start another `wfm play`, which has a set of its own")
        self.episodes.append(episode)
        count = len(self.episodes)
        self._writing = self._writer.submit(self._write, count)
        return self._writing

    def clip(self, nodes: list[Node], kind: str) -> tuple[Path, Future]:
        """Every frame of this path as "mp4" or "gif" -> (the file, what tells when it is there). Raises BadPrompt."""
        if kind not in ("mp4", "gif"):
            raise BadPrompt(f"clip: got {kind!r:.40}, expected mp4 or gif; fix: choose one")
        pictures = _pictures(nodes)
        if len(pictures) * self.world.height * self.world.width > CLIP_PIXELS:
            raise BadPrompt(f"clip: got {len(pictures)} frames, expected fewer; fix: record episodes instead, or take a shorter branch")
        self._clips += 1
        path = self.folder / f"{datetime.now():%H-%M-%S}-{self._clips}.{kind}"
        return path, self._writer.submit(self._write_clip, path, pictures, self.world.fps)

    def close(self) -> None:
        """Waits until all is on disk. Raises what the last writing of the set raised."""
        self._writer.shutdown(wait=True)
        if self._writing is not None:
            self._writing.result()

    def _write(self, count: int) -> int | None:
        if count < len(self.episodes):  # a later one is waiting and will write this one too
            return None
        episodes = list(self.episodes)
        about: dict[str, Any] = {"imagined": True, "world": self.world.name, "played": True}
        about["episodes"] = [{"id": one.id, "seed": one.seed, "text": one.text} for one in episodes]
        self.folder.mkdir(parents=True, exist_ok=True)
        world = self.world
        keys: dict[str, Any] = dict(fps=world.fps, schema=world.action_schema, robot=world.embodiment, about=about, meanings=MEANINGS)
        write_lerobot(self.set_path, map(_as_clip, episodes), overwrite=True, **keys)
        return len(episodes)

    @staticmethod
    def _write_clip(path: Path, pictures: list[bytes], fps: float) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        frames_THWC = pixels_of(pictures)
        if path.suffix == ".mp4":
            frames_THWC = frames_THWC[:, : frames_THWC.shape[1] // 2 * 2, : frames_THWC.shape[2] // 2 * 2]
        write_video(path, frames_THWC, fps)
        return path


def png_of(frame_HWC: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame_HWC).save(out, format="png", compress_level=3)
    return out.getvalue()


def pixels_of(pictures: list[bytes] | tuple[bytes, ...]) -> np.ndarray:
    """PNG files of our own -> uint8 [T, H, W, 3]."""
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pictures])


def _pictures(nodes: list[Node]) -> list[bytes]:
    if any(not node.pictures for node in nodes):
        raise BadPrompt("path: its beginning is forgotten, as the memory was needed, expected all of it; fix: record while you play")
    return [png for node in nodes for png in node.pictures]


def _episode(name: str, nodes: list[Node], world: World, *, text: str | None, seed: int, refined: bool) -> Episode:
    """`nodes`: of which the first shows where the path begins, with its last picture unless it is where the world began."""
    first = nodes[0]
    begun = first.frame == 0
    pictures = _pictures(nodes) if begun else [first.pictures[-1], *_pictures(nodes[1:])]
    if len(pictures) < 2:
        raise BadPrompt("record: got one frame, expected two or more; fix: play on before the recording is stopped")
    frame_from = np.full(len(pictures), REFINED if refined else IMAGINED, np.int64)
    frame_from[: first.given if begun else 0] = GIVEN
    action_from = np.full(len(pictures), UNKNOWN, np.int64)
    rows: list[np.ndarray] = []
    if world.action_schema is not None:
        width, at = world.action_schema.width, len(pictures) - sum(len(node.pictures) for node in nodes[1:]) - 1
        rows.append(np.zeros((at, width), np.float32))
        for node in nodes[1:]:
            count = len(node.pictures)
            rows.append(np.zeros((count, width), np.float32) if node.actions is None else node.actions)
            action_from[at : at + count] = UNKNOWN if node.actions is None else BY[node.acted]
            at += count
    return Episode(
        id=name,
        text=text,
        pictures=tuple(pictures),
        actions=np.concatenate(rows).astype(np.float32) if rows else None,
        frame_from=frame_from,
        action_from=action_from,
        seed=seed,
    )


def _as_clip(episode: Episode) -> Clip:
    columns = {FRAME: episode.frame_from, ACTION: episode.action_from}
    frames = pixels_of(episode.pictures)
    return Clip(id=episode.id, split="train", text=episode.text, frames=frames, actions=episode.actions, columns=columns)
