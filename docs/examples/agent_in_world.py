"""A gymnasium agent that lives inside the world.

Run `wfm samples out=samples` first; it takes the extra gym. The agent wants the picture to become the goal. At each step it tries a few
actions in forks of the environment, which share the past, and does the best of them.
"""

import argparse
from pathlib import Path

import wfm_ar
from wfm_ar.data.video import read_image


def main(image: Path, goal: Path, steps: int, tries: int) -> list[float]:
    """The reward of each step: how far the picture is from the goal, times -1."""
    world = wfm_ar.load_world("tabletop")
    distance = wfm_ar.GoalPicture(picture=read_image(goal)[0], last=1)
    env = wfm_ar.WorldEnv(world, starts=[read_image(image)], reward=lambda frames: (-distance(frames), False), max_steps=steps)
    env.action_space.seed(0)
    env.reset(seed=0)
    rewards, over = [], False
    while not over:
        best = max((env.action_space.sample() for _ in range(tries)), key=lambda action: env.fork().step(action)[1])
        _, reward, terminated, truncated, _ = env.step(best)
        rewards.append(reward)
        over = terminated or truncated
    return rewards


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=Path("samples/start.png"))
    parser.add_argument("--goal", type=Path, default=Path("samples/goal.png"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tries", type=int, default=8)
    print("reward of each step:", [round(reward, 2) for reward in main(**vars(parser.parse_args()))])
