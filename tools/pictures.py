#!/usr/bin/env python3
"""Makes the pictures of README.md and the site from the shipped world: `python tools/pictures.py`, a minute on two cores.

Every held-out sample that comes with the world and tells to do something is driven by its own actions. The moving picture shows the one
with the smallest error, with the median and with the largest, each also under the opposite actions. The plot shows what report.json says
of objects, frame by frame. docs/pictures/pictures.json says which world they are of and holds the caption.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))
from readme import PICTURES, report, world_hash  # noqa: E402

from wfm_ar.data.formats import open_episodes  # noqa: E402
from wfm_ar.rollout.find_world import samples_of  # noqa: E402
from wfm_ar.rollout.pictures import at_world_size  # noqa: E402
from wfm_ar.rollout.prompt import Rollout  # noqa: E402
from wfm_ar.rollout.world import World, load_world  # noqa: E402

PANELS = ("truth", "imagined", "imagined, opposite actions")
SCALE, HEAD, GAP = 2, 18, 8  # of a panel, in pixels
QUALITY = 75  # of WebP


def error_where_something_moves(rollout: Rollout, truth: np.ndarray) -> float:
    """Mean grey levels off, over the pixels that the truth changes in its clip; 0 where it changes none."""
    moves = (np.abs(truth.astype(int) - truth[:1]) > 16).any(-1)
    return float(np.abs(rollout.raw_frames.astype(int) - truth)[moves].mean()) if moves.any() else 0.0


def driven(world: World, truth: np.ndarray, actions: np.ndarray) -> Rollout:
    return world.generate(video=truth[:1], actions=actions, num_frames=len(truth), refine=False)


@dataclass(frozen=True)
class Drive:
    """A sample, driven by its own actions."""

    error: float
    name: str
    truth: np.ndarray
    actions: np.ndarray
    rollout: Rollout


def drives(world: World) -> list[Drive]:
    """Every sample that is a push, the best first."""
    samples, found = open_episodes(samples_of("tabletop")), []
    for index in range(len(samples)):
        episode, actions = samples[index], samples.load_actions(index)
        if not (episode.text or "").startswith("push"):
            continue
        video = at_world_size(samples.load_frames(index, 0, None), world)
        truth = video[: 1 + (len(video) - 1) // world.rate * world.rate]
        rollout = driven(world, truth, actions)
        found.append(Drive(error_where_something_moves(rollout, truth), Path(episode.id).stem, truth, actions, rollout))
    return sorted(found, key=lambda one: one.error)


def panel(frame: np.ndarray, title: str) -> Image.Image:
    """A frame, enlarged, below its title."""
    height, width = frame.shape[0] * SCALE, frame.shape[1] * SCALE
    made = Image.new("RGB", (width, height + HEAD), "white")
    made.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (0, HEAD))
    ImageDraw.Draw(made).text((4, 3), title, fill="black")
    return made


def moving_picture(path: Path, rows: dict[str, list[np.ndarray]], fps: float) -> None:
    """A row of clips below another as an animated WebP that goes on for ever, resting a second at its end. rows: by their name."""
    frames = []
    for t in range(min(len(clip) for clips in rows.values() for clip in clips)):
        grid = [[panel(clip[t], f"{row}: {title}") for clip, title in zip(clips, PANELS, strict=True)] for row, clips in rows.items()]
        width, height = grid[0][0].size
        whole = Image.new("RGB", (len(PANELS) * (width + GAP) - GAP, len(grid) * (height + GAP) - GAP), "white")
        for y, line in enumerate(grid):
            for x, one in enumerate(line):
                whole.paste(one, (x * (width + GAP), y * (height + GAP)))
        frames.append(whole)
    times = [round(1000 / fps)] * (len(frames) - 1) + [1000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=QUALITY, method=6)


def objects_by_frame(path: Path) -> None:
    """IoU of moved objects at the frames that were looked at: rollouts, the tokenizer's copy, the first frame repeated."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    objects = report()["objects"]
    figure, axes = plt.subplots(figsize=(6, 3.4), dpi=130)
    names = {"tokenizer": "the tokenizer's own copy of the truth", "rollout": "rollout", "repeat": "the first frame repeated"}
    for key, label in names.items():
        groups = objects[key]["groups"]["moved"]
        frames = sorted(groups, key=int)
        middle, low, high = np.array([groups[frame]["iou"] for frame in frames], float).T
        x = [int(frame) for frame in frames]
        axes.plot(x, middle, marker="o", label=label)
        axes.fill_between(x, low, high, alpha=0.15)
    axes.set(xlabel="frames after the given one", ylabel="IoU of moved objects", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    world = load_world("tabletop")
    found = drives(world)
    shown = {"best": found[0], "typical": found[len(found) // 2], "worst": found[-1]}
    rows = {row: [one.truth, one.rollout.raw_frames, driven(world, one.truth, -one.actions).raw_frames] for row, one in shown.items()}
    PICTURES.parent.mkdir(parents=True, exist_ok=True)
    moving_picture(PICTURES.parent / "rollout.webp", rows, world.fps)
    objects_by_frame(PICTURES.parent / "objects.png")
    names = ", ".join(one.name for one in shown.values())
    caption = (
        f"The {len(found)} held-out pushes that come with the world, ranked by their error: the best, the median and the worst of them "
        f"(episodes {names}). Left the truth, in the middle what the world imagines from the first frame under the same actions, as "
        "decoded and unrefined, on the right the same start under the opposite actions."
    )
    PICTURES.write_text(json.dumps({"world_sha256": world_hash(), "episodes": names, "caption": caption}, indent=1) + "\n")
    print(f"made {PICTURES.parent}/rollout.webp, objects.png and {PICTURES.name} (episodes {names}); now run: python tools/readme.py")


if __name__ == "__main__":
    main()
