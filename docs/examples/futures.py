"""Imagine several futures of one picture.

Run `wfm samples out=samples` first. The rows of a batch differ only in their seed; each has the tokens it would have alone.
"""

import argparse
from pathlib import Path

import numpy as np

import wfm_ar
from wfm_ar.data.video import read_image, write_video


def main(image: Path, text: str, count: int, frames: int, out: Path) -> np.ndarray:
    """Writes the futures side by side -> uint8 [T, H, count * W, 3]."""
    world = wfm_ar.load_world("tabletop")
    start = read_image(image)  # [1, H, W, 3]
    prompts = [wfm_ar.Prompt(video=start, text=text, num_frames=frames, seed=seed) for seed in range(count)]
    rollouts = world.generate_batch(prompts, temperature=1.0)
    side_by_side = np.concatenate([rollout.frames for rollout in rollouts], axis=2)
    write_video(out, side_by_side, world.fps, overwrite=True)
    return side_by_side


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=Path("samples/start.png"))
    parser.add_argument("--text", default="move at random")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--out", type=Path, default=Path("futures.mp4"))
    main(**vars(parser.parse_args()))
