"""Find actions that lead from one picture to another, look at what came of the first of them, and plan again.

Run `wfm samples out=samples` first. Where a robot would act, this program asks the world itself what comes next.
"""

import argparse
from pathlib import Path

import numpy as np

import wfm_ar
from wfm_ar.data.video import read_image, write_video


def main(image: Path, goal: Path, frames: int, samples: int, rounds: int, out: Path) -> list[float]:
    """Writes the clip as it was lived through -> the cost of each plan."""
    world = wfm_ar.load_world("tabletop")
    seen, wanted = read_image(image), read_image(goal)[0]
    cost = wfm_ar.GoalPicture(picture=wanted, last=world.rate)
    config = wfm_ar.PlanConfig(samples=samples, rounds=rounds, elites=max(1, samples // 5))
    look = -(-8 // world.rate) * world.rate  # actions until it looks again: about 8, in whole latents
    lived, guess, costs = [seen], None, []
    while frames > 1:
        found = wfm_ar.plan(world, seen, cost, num_frames=frames, guess=guess, config=config)
        costs.append(found.cost)
        acted = min(look, frames - 1)
        came = found.rollout.frames[1 : 1 + acted]  # a robot would do found.actions[:acted], and a camera would see this
        lived.append(came)
        seen, guess, frames = came[-1:], found.actions[acted:], frames - acted
    write_video(out, np.concatenate(lived), world.fps, overwrite=True)
    return costs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=Path("samples/start.png"))
    parser.add_argument("--goal", type=Path, default=Path("samples/goal.png"))
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("lived.mp4"))
    print("cost of each plan:", [round(cost, 2) for cost in main(**vars(parser.parse_args()))])
