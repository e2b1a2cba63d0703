"""The tokens of before: what fixed prompts gave at an earlier version, against what they give now.

    python tools/campaigns/recorded_tokens.py --write before.json      (at the earlier version)
    python tools/campaigns/recorded_tokens.py --check before.json      (at the later one)

Prompts of every kind (text, frames, actions given and imagined, guidance by either, batches of mixed lengths, beyond the trained
length, forks of a stream) on a shipped world, and on synthetic Cosmos releases without and with a text and with actions. A case is
one SHA-256 of its tokens and frames. The scope: one machine, one dtype, one number of threads; the world must be the same one.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from wfm_ar.cosmos.convert import convert
from wfm_ar.cosmos.synth import synthesise
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import resize_crop
from wfm_ar.rollout.find_world import find_world
from wfm_ar.rollout.world import Prompt, World, load_world
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.world_model.transformer import WorldModel

Case = tuple[str, str]  # name, SHA-256


def digest(*arrays: np.ndarray | None) -> str:
    """SHA-256 of shapes, types and bytes."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(repr(None if array is None else (array.shape, array.dtype.str)).encode())
        total.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def native_cases(world: World, video: np.ndarray, text: str, latents: int = 6) -> Iterator[Case]:
    """Every kind of prompt that a world of our own takes."""
    rate, frames = world.rate, 1 + (latents - 1) * world.rate
    beyond = 1 + (world.parts.sequence.max_latents + 1) * rate
    acts = moves(world.action_schema, beyond, 0)
    made: list[tuple[str, list[Prompt], dict[str, Any]]] = [
        ("text", [Prompt(text=text, num_frames=frames, seed=1)], {}),
        ("nothing", [Prompt(num_frames=frames, seed=2)], {}),
        ("picture", [Prompt(video=video[:1], num_frames=frames, seed=3)], {}),
        ("no actions", [Prompt(video=video[:1], num_frames=frames, seed=4, imagine=False)], {}),
        ("actions", [Prompt(video=video[:1], text=text, actions=acts, num_frames=frames, seed=5)], {}),
        ("greedy", [Prompt(video=video[:1], actions=acts, num_frames=frames, seed=6)], {"temperature": 0.0}),
        ("top k", [Prompt(video=video[:1], num_frames=frames, seed=6)], {"top_k": 20, "top_p": 0.8}),
        ("guided by text", [Prompt(video=video[:1], text=text, num_frames=frames, seed=7)], {"text_guidance": 2.0}),
        ("guided by actions", [Prompt(video=video[:1], actions=acts, num_frames=frames, seed=8)], {"action_guidance": 2.0}),
        ("refined", [Prompt(video=video[:1], num_frames=frames, seed=9)], {"refine": True}),
        ("beyond the trained length", [Prompt(video=video[:1], actions=acts, num_frames=beyond, seed=10)], {}),
        (
            "a batch",
            [
                Prompt(video=video[:1], actions=acts, num_frames=frames, seed=11),
                Prompt(video=video[: 1 + rate], actions=acts, num_frames=frames + rate, seed=12),
                Prompt(text=text, num_frames=frames, seed=13),
                Prompt(video=video[:1], text=text, num_frames=frames - rate, seed=14, imagine=False),
            ],
            {"text_guidance": 1.5},
        ),
    ]
    yield from generated(world, made)
    stream = world.start(video[:1], text=text, seed=15)
    stream.step(acts[:rate])
    fork = stream.fork(seed=16)
    seen = [stream.step(), fork.step(acts[rate : 2 * rate])]
    yield "a stream and its fork", digest(stream.tokens, fork.tokens, *seen)


def cosmos_cases(folder: Path) -> Iterator[Case]:
    """A tiny release that takes a picture, one that takes a text too, and the former with actions."""
    video = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
    text = folder / "text.safetensors"
    save_file({"text": torch.randn(300, 32, generator=torch.Generator().manual_seed(0))}, text)
    few = {"top_k": 4, "refine": False}
    for release in ("4b", "5b"):
        synthesise(release, folder / f"release-{release}")
        convert(folder / f"release-{release}", folder / release, dtype="float32", height=64, width=96)
        world, words = load_world(folder / release), str(text) if release == "5b" else None
        made: list[tuple[str, list[Prompt], dict[str, Any]]] = [
            ("picture", [Prompt(video=video[:1], text=words, num_frames=17, seed=1)], {**few, "refine": True, "refine_steps": 3}),
            ("defaults", [Prompt(video=video, text=words, num_frames=25, seed=2)], {"refine": False}),
            ("beyond the trained length", [Prompt(video=video[:1], text=words, num_frames=57, seed=3)], few),
            ("mixed lengths", [Prompt(video=video[:g], text=words, num_frames=n, seed=n) for g, n in ((1, 17), (9, 25))], few),
        ]
        yield from ((f"{release}: {name}", value) for name, value in generated(world, made))
        if release == "4b":
            tuned = with_actions(world)
            acts = moves(tuned.action_schema, 56, 0)
            made = [
                ("actions", [Prompt(video=video[:1], actions=acts, num_frames=57, seed=4)], few),
                ("guided by actions", [Prompt(video=video[:1], actions=acts, num_frames=17, seed=5)], {**few, "action_guidance": 3.0}),
            ]
            yield from ((f"{release} with actions: {name}", value) for name, value in generated(tuned, made))


def with_actions(world: World) -> World:
    """The world as fine-tuning on two channels of five bins leaves it: ten more rows of the embedding."""
    channels = tuple(ActionChannel(name=name, unit="m", low=-1.0, high=1.0, bins=5) for name in ("dx", "dy"))
    given = world.modules["world_model"]
    config = replace(given.config, vocab=given.config.vocab + 10)
    model, state = WorldModel(config).eval(), given.state_dict()
    rows = torch.randn(10, config.dim, generator=torch.Generator().manual_seed(0)) * 2
    model.load_state_dict(state | {"embedding.weight": torch.cat((state["embedding.weight"], rows))})
    sequence = replace(world.parts.sequence, vocab=config.vocab, action_bins=(5, 5))
    schema = ActionSchema(channels=channels, rate_hz=24.0)
    return World(replace(world.parts, world_model=model, sequence=sequence, action_schema=schema), name="tuned")


def generated(world: World, made: list[tuple[str, list[Prompt], dict[str, Any]]]) -> Iterator[Case]:
    """A case for each batch of prompts."""
    for name, prompts, settings in made:
        rollouts = world.generate_batch(prompts, **{"refine": False, **settings})
        yield name, digest(*(array for one in rollouts for array in (one.tokens, one.raw_frames, one.frames, one.actions)))


def moves(schema: ActionSchema | None, count: int, seed: int) -> np.ndarray | None:
    """Actions within their ranges, float32 [count, A]."""
    if schema is None:
        return None
    low, high = (np.array([getattr(channel, side) for channel in schema.channels]) for side in ("low", "high"))
    return np.random.default_rng(seed).uniform(low, high, (count, len(low))).astype(np.float32)


def cases(name: str) -> Iterator[Case]:
    """Of a shipped world (or a folder) and of the synthetic releases."""
    world = load_world(name)
    episodes = open_episodes(Path(find_world(name)) / "samples")
    video = resize_crop(episodes.load_frames(0), world.height, world.width)
    text = next(episode.text for episode in episodes if episode.text)
    yield from ((f"{world.name}: {case}", value) for case, value in native_cases(world, video, text))
    with tempfile.TemporaryDirectory() as folder:
        yield from cosmos_cases(Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", default="tabletop", help="a shipped world or a folder with samples")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--write", type=Path, help="a new file of what the prompts give now")
    which.add_argument("--check", type=Path, help="such a file, to be compared with")
    options = parser.parse_args()
    before = None if options.check is None else json.loads(options.check.read_text())
    found: dict[str, str] = {}
    for name, value in cases(options.world):
        found[name] = value
        said = "" if before is None else "same" if before.get(name) == value else "OTHER"
        print(f"{name:<50} {value[:16]} {said}", flush=True)
    if before is None:
        options.write.write_text(json.dumps(found, indent=1))
        return 0
    failed = [name for name in before.keys() | found.keys() if before.get(name) != found.get(name)]
    print(f"{len(found.keys() - set(failed))} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
