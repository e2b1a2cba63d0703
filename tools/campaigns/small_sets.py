"""A sound data set of two short episodes in every format that is read: what the campaigns then do harm to."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet

from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.lerobot_write import Clip, write_lerobot
from wfm_ar.data.tfrecord import crc32c, masked
from wfm_ar.data.video import write_image, write_video
from wfm_ar.schema import ActionChannel, ActionSchema

FRAMES, SIDE, FPS = 4, 32, 10
SPLITS = ("train", "val")
SCHEMA = ActionSchema(channels=tuple(ActionChannel(name=name, unit="m", low=-1, high=1) for name in ("dx", "dy")), rate_hz=FPS)


def pictures(k: int) -> np.ndarray:
    """uint8 [T, H, W, 3] of episode k, by whose values it is known."""
    return np.full((FRAMES, SIDE, SIDE, 3), 100 + 50 * k, np.uint8)


def actions(k: int, rows: int = FRAMES - 1) -> np.ndarray:
    return np.random.default_rng(k).uniform(-1, 1, (rows, 2)).astype(np.float32)


def states(k: int) -> dict[str, np.ndarray]:
    return {"joint": np.random.default_rng(9 + k).normal(size=(FRAMES, 2)).astype(np.float32)}


def episodes(root: Path) -> None:
    """Our own format."""
    records = []
    for k, split in enumerate(SPLITS):
        more = dict(text="go left", actions=actions(k), state=states(k))
        records.append(write_episode(root, id=f"e{k}", frames_THWC=pictures(k), fps=FPS, split=split, **more))
    write_episodes(root, records, SCHEMA)


def lerobot(root: Path) -> None:
    """LeRobot v3.0."""
    clips = [
        Clip(id=f"e{k}", split=split, text="go left", frames=pictures(k), actions=actions(k), states=states(k))
        for k, split in enumerate(SPLITS)
    ]
    root.rmdir()
    write_lerobot(root, clips, fps=FPS, schema=SCHEMA)


def lerobot_v2(root: Path) -> None:
    """LeRobot v2.1: files an episode, lists as JSON lines."""
    features = {"action": {"dtype": "float32", "shape": [2]}, "observation.images.top": {"dtype": "video", "shape": [SIDE, SIDE, 3]}}
    for folder in ("meta", "data/chunk-000", "videos/chunk-000/observation.images.top"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps({"codebase_version": "v2.1", "fps": FPS, "features": features}))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "go left"}\n')
    (root / "meta/episodes.jsonl").write_text("".join(f'{{"episode_index": {k}, "length": {FRAMES}}}\n' for k in range(2)))
    for k in range(2):
        write_video(root / f"videos/chunk-000/observation.images.top/episode_{k:06d}.mp4", pictures(k), FPS)
        table = {"action": actions(k, FRAMES).tolist(), "frame_index": list(range(FRAMES)), "episode_index": [k] * FRAMES}
        table |= {"task_index": [0] * FRAMES, "timestamp": [t / FPS for t in range(FRAMES)]}
        pyarrow.parquet.write_table(pyarrow.table(table), root / f"data/chunk-000/episode_{k:06d}.parquet")


def hdf5(root: Path) -> None:
    """robomimic's layout."""
    with h5py.File(root / "set.hdf5", "w") as file:
        fill_hdf5(file)


def fill_hdf5(file: h5py.File) -> None:
    for k in range(2):
        demo = file.create_group(f"data/demo_{k}")
        demo["actions"], demo["obs/front_image"], demo["obs/joint"] = actions(k, FRAMES), pictures(k), states(k)["joint"]
    file["mask/train"], file["mask/valid"] = np.array([b"demo_0"]), np.array([b"demo_1"])


def rlds(root: Path) -> None:
    """TFRecord files of RLDS episodes."""
    records = []
    for k in range(2):
        write_image(root / "one.png", pictures(k)[0], overwrite=True)
        one = (root / "one.png").read_bytes()
        features = {"steps/observation/image": message(1, b"".join([message(1, one)] * FRAMES))}
        features["steps/action"] = message(2, message(1, actions(k, FRAMES).tobytes()))
        features["steps/language_instruction"] = message(1, message(1, b"go left") * FRAMES)
        entries = [message(1, message(1, name.encode()) + message(2, value)) for name, value in features.items()]
        records.append(message(1, b"".join(entries)))
    (root / "one.png").unlink()
    sizes = [len(one).to_bytes(8, "little") for one in records]
    content = [n + masked(crc32c(n)) + one + masked(crc32c(one)) for n, one in zip(sizes, records, strict=True)]
    (root / "set-train.tfrecord-00000-of-00001").write_bytes(b"".join(content))


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf."""
    size, left = b"", len(content)
    while left > 127:
        size, left = size + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + size + bytes([left]) + content


def npz(root: Path) -> None:
    """Videos with actions and texts beside them."""
    for k, split in enumerate(SPLITS):
        (root / split).mkdir()
        write_video(root / split / "a.mp4", pictures(k), FPS)
        np.savez(root / split / "a.npz", actions=actions(k))
        (root / split / "a.txt").write_text("go left")


MAKERS: dict[str, Callable[[Path], None]] = {
    "episodes": episodes, "lerobot": lerobot, "lerobot_v2": lerobot_v2, "hdf5": hdf5, "rlds": rlds, "npz": npz,
}  # fmt: skip
