"""What a session can begin from: a sample of the world, an episode of a data set, an uploaded file, a simulated table, or nothing.

Uploads are foreign files: they are decoded in the decoding child, under its limits, and only as many frames as a prompt takes.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.video import read_frames, read_image
from wfm_ar.errors import BadClip, BadPrompt, nearest
from wfm_ar.rollout.pictures import at_world_size, numbers_at_rate, told_of
from wfm_ar.rollout.world import World
from wfm_ar.simulate.play.beside import Simulator, simulator_of

LISTED = 200  # episodes of a set that are offered by name
UPLOADS = 16  # that are kept; older ones go
PICTURES = (".png", ".jpg", ".jpeg")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
GIVEN_LATENTS = 4  # of an uploaded clip, at most, and fewer where the world remembers fewer


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a session begins."""

    frames: np.ndarray | None  # uint8 [1 + r*n, H, W, 3] of the world's size
    text: str | None
    told: str = ""  # what was done to the pictures
    simulator: Simulator | None = None


class Sources:
    """Everything that can be begun from. Asked by threads, one at a time each."""

    def __init__(self, world: World, samples: EpisodeSet | None, data: EpisodeSet | None) -> None:
        """samples: the world's own few episodes, data: a set of the user's, where there are any."""
        self.world, self._sets = world, {"sample": samples, "episode": data}
        self._uploads: dict[str, Start] = {}
        self._simulates = simulator_of(world)

    def offered(self) -> dict[str, list[dict[str, str]]]:
        """By kind, the names and texts of what can be asked for, for the page."""
        listed: dict[str, list[dict[str, str]]] = {
            kind: [{"id": one.id, "text": one.text or ""} for one in list(episodes or ())[:LISTED]] for kind, episodes in self._sets.items()
        }
        listed["simulator"] = [{"id": "0", "text": ""}] if self._simulates else []
        return listed

    def find(self, source: str, name: str | None, seed: int) -> Start:
        """Raises BadPrompt, BadClip."""
        if source == "text":
            return Start(frames=None, text=None)
        if source == "simulator" and self._simulates is not None:
            simulator = self._simulates(seed)
            return Start(frames=simulator.picture()[None], text=simulator.text, simulator=simulator)
        if source == "upload":
            if name not in self._uploads:
                raise BadPrompt(
                    f"start: upload {name!r:.40} is not there any more, expected one of the last {UPLOADS}; fix: upload it again"
                )
            return self._uploads[name]
        kinds = ("text", "upload", *(kind for kind, episodes in self._sets.items() if episodes is not None))
        episodes = self._sets.get(source)
        if episodes is None:
            raise BadPrompt(f"start: got source {source!r:.40}{nearest(source, kinds)}, expected one of {list(kinds)}; fix: choose one")
        return self._episode(episodes, source, name)

    def _episode(self, episodes: EpisodeSet, source: str, name: str | None) -> Start:
        ids = [episode.id for episode in episodes]
        if name is not None and name not in ids:
            raise BadPrompt(f"start: got {source} {name!r:.40}{nearest(name, ids)}, expected one of the set; fix: choose one of the list")
        i = 0 if name is None else ids.index(name)
        frames_THWC = episodes.load_frames(i, 0, 1)
        text = episodes[i].text if self.world.takes_text else None
        return Start(frames=self._fitted(frames_THWC), text=text, told=told_of(frames_THWC, self.world, None, ids[i]))

    def upload(self, content: bytes, file_name: str) -> str:
        """Keeps what a picture or the beginning of a clip shows -> the name to start from it by. Raises BadClip, BadPrompt."""
        suffix = Path(file_name).suffix.lower()
        if suffix not in (*PICTURES, *CLIPS):
            expected = ", ".join((*PICTURES, *CLIPS))
            raise BadClip(f"upload: got {file_name!r:.80}, expected a name that ends in one of {expected}; fix: choose another file")
        with tempfile.TemporaryDirectory(prefix="wfm-play-") as folder:
            path = Path(folder, f"upload{suffix}")
            path.write_bytes(content)
            try:
                frames_THWC, told = self._read(path)
            except (BadClip, BadPrompt) as error:
                raise error.reworded(str(path), "upload") from None
        line = told_of(frames_THWC, self.world, None, "upload")
        name = f"{len(self._uploads)}-{np.random.default_rng().integers(2**31)}"
        while len(self._uploads) >= UPLOADS:
            del self._uploads[next(iter(self._uploads))]
        self._uploads[name] = Start(frames=self._fitted(frames_THWC), text=None, told="; ".join([*told, *[line] * bool(line)]))
        return name

    def _read(self, path: Path) -> tuple[np.ndarray, list[str]]:
        if path.suffix in PICTURES:
            return read_image(path), []
        told: list[str] = []
        world = self.world
        try:
            numbers = numbers_at_rate(path, world, None, told)
        except BadPrompt:
            numbers = np.arange(1)
            told.append(f"it has fewer than the world's {world.fps:g} frames a second: its first one is taken")
        latents = min(GIVEN_LATENTS, world.parts.sequence.max_latents - 2, (len(numbers) - 1) // world.rate)
        count = 1 + world.rate * max(0, latents)
        if count < len(numbers):
            told.append(f"its first {count} frames of {len(numbers)} are taken")
        return read_frames(path, numbers[:count]), told

    def _fitted(self, frames_THWC: np.ndarray) -> np.ndarray:
        """Of the world's size, also where it takes others: what is kept is bounded, and the page has one size."""
        return at_world_size(frames_THWC, self.world)
