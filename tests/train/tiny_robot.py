"""A robot of two channels in a picture: a bright square that its actions move over a patterned table, and a lamp that nothing moves."""

from pathlib import Path

import numpy as np

from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.schema import ActionChannel, ActionSchema

SIDE = 8  # pixels of the square
SCHEMA = ActionSchema(
    channels=(
        ActionChannel(name="dx", unit="px", low=-4, high=4, bins=9, motion="delta"),
        ActionChannel(name="dy", unit="px", low=-4, high=4, bins=9, motion="delta"),
        ActionChannel(name="grip", unit="", low=1, high=1, constant=True),
    ),
    rate_hz=10,
)


def episode(seed: int, frames: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(frames uint8 [T, H, W, 3], actions float32 [T - 1, 3]); the square stops at the edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    table = np.stack([90 + 30 * ((x // 8 + y // 8) % 2), 80 + 0 * x, 60 + x // 2], -1).astype(np.uint8)
    at, video, actions = np.array([width // 2, height // 2]), [], np.zeros((frames - 1, 3), np.float32)
    actions[:, :2] = np.repeat(rng.integers(-4, 5, (-(-(frames - 1) // 3), 2)), 3, axis=0)[: frames - 1]
    actions[:, 2] = 1
    for t in range(frames):
        picture = table.copy()
        picture[at[1] : at[1] + SIDE, at[0] : at[0] + SIDE] = (250, 220, 40)
        video.append(picture)
        if t < frames - 1:
            at = np.clip(at + actions[t, :2].astype(int), 0, [width - SIDE, height - SIDE])
    return np.stack(video), actions


def write_robot(root: Path, clips: int = 6, frames: int = 12, fps: float = 10.0, held_out: int = 2, **size: int) -> Path:
    """A data set of our own format, with two texts."""
    records = []
    for i in range(clips):
        video, actions = episode(i, frames, **size)
        split = "val" if i < held_out else "train"
        text = ("sweep the table", "stir the soup")[i % 2]
        records.append(write_episode(root, id=f"{i:03d}", frames_THWC=video, fps=fps, split=split, text=text, actions=actions))
    schema = ActionSchema(channels=SCHEMA.channels, rate_hz=fps)
    write_episodes(root, records, schema)
    return root
