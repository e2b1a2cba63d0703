"""Do plans that were made in a world work in the real one? `python tools/plan_bench.py` prints a table.

Each episode is a push that MuJoCo makes anew (no file of a data set): its first picture is given, its last one is the goal, and
what counts is how far the pushed object ends from where it is in that picture. Every way of acting is carried out in MuJoCo:

* still: nothing is done; so far it was away;
* policy: the actions the world imagines from the first picture and the episode's text, told what to push;
* plan: `wfm plan`'s, from the two pictures and the text (which the policy's proposals follow), carried out without looking;
* plan, looking: the same, made anew from what is seen after every LOOK actions, beginning at what is left of the last plan.
"""

import argparse
import json
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy as np

from wfm_ar.data.files import sha256_of
from wfm_ar.machine import cores, cpu_name
from wfm_ar.rollout.find_world import SETTINGS, find_world
from wfm_ar.rollout.world import World, load_world
from wfm_ar.simulate.goal import GoalPicture
from wfm_ar.simulate.planner import PlanConfig, plan
from wfm_ar.worlds.tabletop import TabletopWorld, play
from wfm_ar.worlds.tabletop_policy import limit

FRAMES, LOOK, SEED = 33, 8, 7_000  # SEED of the episodes: no data set in the README has it
NEAR = 0.03  # metres: an object's radius
WAYS = ("still", "policy", "plan", "plan, looking")


def within_reach(actions: np.ndarray) -> np.ndarray:
    """[N, 2] metres, each no longer than the peg's longest step."""
    return np.stack([limit(action) for action in np.asarray(actions, np.float64)])


class Episode:
    """One push in MuJoCo: where it begins, where it should end, and what comes of actions."""

    def __init__(self, sim: TabletopWorld, index: int) -> None:
        self.sim = sim
        self.layout, actions, _ = play(sim, SEED, index, FRAMES, "push")
        self.wanted_xy, self.goal = self.carried_out(actions)
        self.begin()
        self.first = sim.render()

    def begin(self) -> None:
        self.sim.reset(self.layout)

    def go(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From where it is -> (place [2] of the object in metres, picture)."""
        for action in within_reach(actions):
            self.sim.step(action)
        return self.sim.object_xyz[self.layout.target, :2].copy(), self.sim.render()

    def carried_out(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.begin()
        return self.go(actions)


def acted(way: str, world: World, episode: Episode, seed: int, config: PlanConfig) -> np.ndarray:
    """Place [2] of the object in the end, in metres."""
    goal, first, text = GoalPicture(picture=episode.goal, last=world.rate), episode.first[None], episode.layout.text
    how = dict(text=text, possible=within_reach, seed=seed, config=config)
    if way == "still":
        return episode.carried_out(np.zeros((FRAMES - 1, 2)))[0]
    if way == "policy":
        certain = dict(temperature=0.0, action_temperature=1.0, text_guidance=3.0)
        rollout = world.generate(video=first, text=text, num_frames=FRAMES, seed=seed, refine=False, **certain)
        return episode.carried_out(rollout.actions)[0]
    if way == "plan":
        return episode.carried_out(plan(world, first, goal, num_frames=FRAMES, **how).actions)[0]
    episode.begin()
    seen, guess = episode.first, None
    for done in range(0, FRAMES - 1, LOOK):
        actions = plan(world, seen[None], goal, num_frames=FRAMES - done, guess=guess, **how).actions
        place, seen = episode.go(actions[:LOOK])
        guess = actions[LOOK:]
    return place


def main(count: int, name: str, out: Path | None, config: PlanConfig | None = None) -> dict[str, dict[str, float]]:
    config, world, sim = config or PlanConfig(), load_world(name), TabletopWorld()
    away, seconds = defaultdict(list), defaultdict(list)
    for index in range(count):
        episode = Episode(sim, index)
        for way in WAYS:
            begun = time.perf_counter()
            place = acted(way, world, episode, index, config)
            seconds[way].append(time.perf_counter() - begun)
            away[way].append(float(np.linalg.norm(place - episode.wanted_xy)))
        shown = ", ".join(f"{way} {100 * away[way][-1]:.1f}" for way in WAYS)
        print(f"{index + 1}/{count} {episode.layout.text}: cm away in the end: {shown}", flush=True)
    sim.close()
    table = {}
    print(f"\n| {count} pushes | median cm away | mean | within {100 * NEAR:.0f} cm | seconds, median |\n|---|---|---|---|---|")
    for way in WAYS:
        metres = np.array(away[way])
        table[way] = {
            "median_m": float(np.median(metres)),
            "mean_m": float(metres.mean()),
            "near": float((metres <= NEAR).mean()),
            "seconds": float(np.median(seconds[way])),
            "metres": metres.tolist(),
        }
        row = table[way]
        print(f"| {way} | {100 * row['median_m']:.1f} | {100 * row['mean_m']:.1f} | {100 * row['near']:.0f} % | {row['seconds']:.0f} |")
    if out is not None:
        about = {"world_sha256": sha256_of(find_world(name) / SETTINGS), "machine": f"{cpu_name()}, {cores()} cores"}
        about |= {"day": f"{date.today()}", "command": f"python tools/plan_bench.py --episodes {count}", "episodes": count}
        out.write_text(json.dumps(about | {"ways": table}, indent=1) + "\n")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--world", default="tabletop", help="a shipped world, or a world folder")
    parser.add_argument(
        "--out", type=Path, help="a JSON file for the numbers, of each episode too; docs/measured/plan_bench.json is shown on the site"
    )
    asked = parser.parse_args()
    main(asked.episodes, asked.world, asked.out)
