"""Same seed, same tokens (reliability goal R11): the tokens of a prompt do not depend on its neighbours in a batch.

    python tools/campaigns/same_tokens.py --prompts 500

Prompts with and without text, given frames and actions are rolled out alone and in shuffled batches of 2, 3 and 8, greedy and
sampled; every token must be equal. The scope: one device, one dtype, one version, one number of threads.
"""

import argparse
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np

from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import resize_crop
from wfm_ar.rollout.find_world import find_world
from wfm_ar.rollout.world import Prompt, World, load_world

BATCHES = (2, 3, 8)
SAMPLINGS = {"greedy": {"temperature": 0.0}, "sampled": {"temperature": 1.0, "top_p": 0.95}}


def prompts_of(world: World, videos: list[np.ndarray], texts: list[str], count: int, seed: int) -> list[Prompt]:
    """`count` prompts of every kind the world takes, of different lengths."""
    rng, made = random.Random(seed), []
    for i in range(count):
        video, rate = rng.choice(videos), world.rate
        given = rng.choice([None, 1, 1 + rate])
        latents = rng.choice([2, 3]) + (given or 1) // rate
        actions = None
        if world.action_schema is not None and rng.random() < 0.5:
            low = np.array([channel.low for channel in world.action_schema.channels])
            high = np.array([channel.high for channel in world.action_schema.channels])
            actions = np.random.default_rng((seed, i)).uniform(low, high, (latents * rate, len(low))).astype(np.float32)
        made.append(
            Prompt(
                video=None if given is None else video[:given],
                text=rng.choice([None, *texts]),
                actions=actions,
                num_frames=1 + (latents - 1) * rate,
                seed=rng.randrange(2**31),
                imagine=rng.random() < 0.5,
            )
        )
    return made


def campaign(world: World, prompts: list[Prompt], seed: int) -> int:
    """-> rollouts compared. Raises AssertionError with the prompt's number, batch and sampling where a token differs."""
    compared = 0
    for name, sampling in SAMPLINGS.items():
        alone = [world.generate_batch([prompt], refine=False, **sampling)[0] for prompt in prompts]
        for size in BATCHES:
            order = list(range(len(prompts)))
            random.Random(f"{seed} {name} {size}").shuffle(order)
            for first in range(0, len(order), size):
                members = order[first : first + size]
                together = world.generate_batch([prompts[i] for i in members], refine=False, **sampling)
                for i, rollout in zip(members, together, strict=True):
                    equal = np.array_equal(rollout.tokens, alone[i].tokens)
                    assert equal, f"prompt {i} of seed {seed}, {name}, in the batch {members}: other tokens than alone"
                    compared += 1
    return compared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--world", default="tabletop", help="a shipped world or a folder; its samples are the prompts' frames and texts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began, world = time.monotonic(), load_world(options.world)
    episodes = open_episodes(Path(find_world(options.world)) / "samples")
    videos = [resize_crop(episodes.load_frames(i), world.height, world.width) for i in range(len(episodes))]
    texts = [episode.text for episode in episodes if episode.text]
    prompts = prompts_of(world, videos, texts, options.prompts, options.seed)
    try:
        compared = campaign(world, prompts, options.seed)
    except AssertionError as error:
        print(error)
        print("0 passed, 1 failed")
        return 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(prompts)} prompts of {options.world}, greedy and sampled, batches 1, 2, 3, 8: {compared} rollouts equal token for token")
    print(f"{time.monotonic() - began:.0f} s, peak memory {memory:.0f} MiB")
    print(f"{compared} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
