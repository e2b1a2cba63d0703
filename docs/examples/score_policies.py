"""Score policies in the world instead of on the robot.

Run `wfm samples out=samples` first. A policy is a function from the last frame to the actions of the next latent. Each is rolled out
from the same picture with several seeds; what counts is how near the end is to the goal. How far such a ranking can be trusted depends
on how true the world is: `wfm evaluate` says that.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

import wfm_ar
from wfm_ar.data.video import read_image

Policy = Callable[[np.ndarray], np.ndarray | None]  # frame uint8 [H, W, 3] -> actions float32 [r, A]; None: the world's own policy


def policies(world: wfm_ar.World) -> dict[str, Policy]:
    """What is compared: to stand still, to go one way, and what the world itself imagines that its data would do."""
    highest = np.array([channel.high for channel in world.action_schema.channels], np.float32)
    still = np.zeros((world.rate, len(highest)), np.float32)
    right = still + highest * np.eye(1, len(highest), dtype=np.float32)
    return {"still": lambda frame: still, "right": lambda frame: right, "imagined": lambda frame: None}


def score(world: wfm_ar.World, policy: Policy, start: np.ndarray, text: str | None, cost: Callable, steps: int, seed: int) -> float:
    stream = world.start(video=start, text=text, seed=seed)
    frames = stream.given_frames
    for _ in range(steps):
        frames = stream.step(policy(frames[-1]))
    return cost(frames)


def main(image: Path, goal: Path, text: str | None, steps: int, seeds: int) -> dict[str, float]:
    """Mean distance to the goal of each policy, grey levels; the best first."""
    world = wfm_ar.load_world("tabletop")
    start, cost = read_image(image), wfm_ar.GoalPicture(picture=read_image(goal)[0], last=1)
    found = {
        name: float(np.mean([score(world, policy, start, text, cost, steps, seed) for seed in range(seeds)]))
        for name, policy in policies(world).items()
    }
    return dict(sorted(found.items(), key=lambda one: one[1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=Path("samples/start.png"))
    parser.add_argument("--goal", type=Path, default=Path("samples/goal.png"))
    parser.add_argument("--text")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    for name, distance in main(**vars(parser.parse_args())).items():
        print(f"{name:<10} {distance:.2f}")
