"""Flat streams: the resident size of a process that drives a rollout on and on does not grow.

    python tools/campaigns/flat_stream.py --world tabletop --latents 20000
    python tools/campaigns/flat_stream.py --world tiny --latents 20000      made anew, with a frame predictor

Resident size is read from /proc every `--every` latents, and garbage is left to Python's own collector, as in a robot's loop. The first
reading, taken when the context has been full many times, is what all later ones are compared with.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from campaign_figures import figures, write_figures

from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import WfmError
from wfm_ar.rollout.find_world import samples_of
from wfm_ar.rollout.stream import WorldStream
from wfm_ar.rollout.world import World, load_world

MOST = 0.05  # growth from the first reading on
TESTS = Path(__file__).resolve().parents[2] / "tests"


def resident() -> float:
    """MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def open_world(name: str) -> World:
    """A shipped world or a folder; "tiny": random weights of the tests, which look ahead with a frame predictor."""
    if name != "tiny":
        return load_world(name)
    sys.path[:0] = [str(TESTS / "rollout"), str(TESTS / "train")]
    from tiny_world import make_parts  # with the tests' parts only

    return World(make_parts(refine=False, lookahead=True), name)


def first_frame(world: World, name: str) -> np.ndarray:
    """uint8 [1, H, W, 3]: of the world's samples, so that what stands still is kept as it was given; noise where it has none."""
    try:
        return open_episodes(samples_of(name)).load_frames(0, 0, 1)
    except WfmError:
        return np.random.default_rng(1).integers(0, 256, (1, world.height, world.width, 3), dtype=np.uint8)


def drive(stream: WorldStream, world: World, latents: int, every: int) -> tuple[list[float], float]:
    """Random actions within the schema for every latent -> (MiB resident behind each `every` latents, seconds of the slowest latent)."""
    channels, draw = world.action_schema.channels, np.random.default_rng(0)
    low, high = ([getattr(channel, end) for channel in channels] for end in ("low", "high"))
    readings, slowest = [], 0.0
    for latent in range(1, latents + 1):
        began = time.monotonic()
        stream.step(draw.uniform(low, high, (world.rate, len(channels))).astype(np.float32))
        slowest = max(slowest, time.monotonic() - began)
        if latent % every == 0:
            readings.append(resident())
            print(f"{latent} latents: {readings[-1]:.1f} MiB", flush=True)
    return readings, slowest


def campaign(name: str, latents: int, every: int) -> dict[str, object]:
    """The figures of one stream."""
    torch.set_num_threads(1)
    began, world = time.monotonic(), open_world(name)
    stream = world.start(video=first_frame(world, name), seed=1, refine=False)
    readings, slowest = drive(stream, world, latents, every)
    assert len(stream.tokens) == latents + 1
    growth = max(readings) / readings[0] - 1
    told = f"latents, {readings[0]:.1f} MiB at {every:,}, at most {max(readings):.1f} from there on ({100 * growth:+.2f} %)"
    numbers = {"slowest_seconds": slowest, "seconds": time.monotonic() - began}
    kept = figures(f"flat stream, {name}", cases=1, failures=int(growth > MOST), bugs=0, outcomes={told: latents}, **numbers)
    return kept | {"resident_mib": [round(size, 1) for size in readings]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", default="tabletop")
    parser.add_argument("--latents", type=int, default=20000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    options = parser.parse_args()
    kept = campaign(options.world, options.latents, options.every)
    write_figures(options.json, kept)
    ((told, latents),) = kept["outcomes"].items()
    print(f"{latents} {told}, {kept['seconds']:.0f} s")
    print(f"{1 - kept['failures']} passed, {kept['failures']} failed")
    sys.exit(bool(kept["failures"]))
