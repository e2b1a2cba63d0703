"""Does a world listen to its actions? Measured on any data with actions, without knowing what the pictures show.

Each held-out clip is imagined from its first frame under four kinds of actions, and no text:

* `true`: its own;
* `shuffled`: those of another clip, whose commands are least like its own (chosen from the commands alone);
* `zero`: told to stay: 0, or the first place again where a channel commands places;
* `mirrored`: the other way.

Two things are compared: what the true next latents cost the model when it reads the true ones (nats a latent), and how near its own
rollout is to the true clip. The score is the difference shuffled - true of the first, with a bootstrap interval over clips: a model that
does not look at its actions gives every kind the same numbers, and scores zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wfm_ar.evaluate import metrics
from wfm_ar.evaluate.bench import Bench
from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.intervals import mean_interval
from wfm_ar.evaluate.prediction import prediction_row
from wfm_ar.rollout.world import World
from wfm_ar.schema import ActionSchema

KINDS = ("true", "shuffled", "zero", "mirrored")
HORIZONS = (1, 2, 4, 8, 16, 32)  # frames ahead that get a number, as far as the clips go
FEWEST = 2  # clips of a robot that can be shuffled


@dataclass(frozen=True, kw_only=True)
class Driven:
    """What came of imagining every clip under one kind of actions; a place a clip in each list."""

    actions: list[np.ndarray]  # [T - 1, A]
    loss: list[float]  # nats a latent
    frames: list[np.ndarray]  # uint8 [T, H, W, 3], raw
    tokens: list[np.ndarray]  # [t, h, w]


def action_kinds(actions: Sequence[np.ndarray], schema: ActionSchema) -> dict[str, list[np.ndarray]]:
    """KINDS of actions for clips of one robot, FEWEST or more, whose true ones are `actions`, [N, A] each, all of one length."""
    assert len(actions) >= FEWEST and len({len(one) for one in actions}) == 1, "expected two or more clips of one length"
    low, high = (np.array([getattr(channel, end) for channel in schema.channels], np.float32) for end in ("low", "high"))
    places = np.array([channel.motion == "absolute" for channel in schema.channels])
    shift = partner_shift(actions)

    def rest(one: np.ndarray) -> np.ndarray:
        return np.clip(np.where(places, one[:1], 0.0), low, high).astype(np.float32).repeat(len(one), axis=0)

    def mirrored(one: np.ndarray) -> np.ndarray:
        return np.clip(np.where(places, 2 * one[:1], 0.0) - one, low, high).astype(np.float32)

    return {
        "true": list(actions),
        "shuffled": [actions[(i + shift) % len(actions)] for i in range(len(actions))],
        "zero": [rest(one) for one in actions],
        "mirrored": [mirrored(one) for one in actions],
    }


def partner_shift(actions: Sequence[np.ndarray]) -> int:
    """The cyclic shift 1..n-1 of the clips whose actions differ most from the clips' own, in each channel's spread."""
    actions_ENA = np.stack(actions).astype(np.float64)
    spread = actions_ENA.std(axis=(0, 1))
    apart = [
        float(np.mean(np.abs(actions_ENA - np.roll(actions_ENA, -shift, axis=0)) / np.where(spread > 0, spread, 1.0)))
        for shift in range(1, len(actions))
    ]
    return 1 + int(np.argmax(apart))


def drive(bench: Bench, clips: Sequence[Clip]) -> dict[str, Driven]:
    """Every clip of `clips`, of one robot, under all KINDS of actions."""
    schema, actions = bench.acting(clips[0]).action_schema, [clip.actions for clip in clips if clip.actions is not None]
    assert schema is not None and len(actions) == len(clips), "measured of clips with actions alone"
    kinds = action_kinds(actions, schema)
    driven = {}
    for kind, given in kinds.items():
        pairs = list(zip(clips, given, strict=True))
        prompts = [bench.prompt(k, clip, actions=row) for k, (clip, row) in enumerate(pairs)]
        rolls = list(bench.roll(clips, prompts, guidance="action_guidance", refine=False, name=f"listens: {kind}"))
        driven[kind] = Driven(
            actions=list(given),
            loss=[cost(bench.acting(clip), clip, row) for clip, row in pairs],
            frames=[rolled.raw_frames for rolled in rolls],
            tokens=[rolled.tokens for rolled in rolls],
        )
    return driven


def cost(world: World, clip: Clip, actions: np.ndarray | None, text: str | None = None) -> float:
    """Nats that a true latent after the first takes, when the model reads the true ones before it, these actions and this text."""
    tokenizer = world.parts.text_tokenizer
    text_ids = tokenizer.encode(text) if text is not None and tokenizer is not None else None
    bins = None if actions is None else world.bins_of(actions, clip.id)[0].unflatten(0, (-1, world.rate))
    tokens = torch.from_numpy(world.encode(clip.frames))
    row = prediction_row(world.parts.world_model, world.sequence, tokens, text_ids, bins, world.lookahead)
    return float(row.loss[1:].sum() / max(1, len(row.loss) - 1))


def listening_numbers(truth: Sequence[np.ndarray], driven: Mapping[str, Driven]) -> dict[str, Any]:
    """The numbers of the module's first lines. `truth`: the true clips, uint8 [T, H, W, 3]."""
    true = driven["true"]
    near = {
        kind: {
            "psnr": np.stack([metrics.psnr_frames(made[1:], clip[1:]) for made, clip in zip(each.frames, truth, strict=True)]),
            "distance": np.stack([metrics.perceptual_frames(made[1:], clip[1:]) for made, clip in zip(each.frames, truth, strict=True)]),
        }
        for kind, each in driven.items()
    }
    horizons = [frame for frame in HORIZONS if frame <= len(truth[0]) - 1]
    numbers: dict[str, Any] = {
        "clips": len(truth),
        "frames": len(truth[0]),
        "horizons": horizons,
        "loss": {kind: float(np.mean(each.loss)) for kind, each in driven.items()},
    }
    for name in ("psnr", "distance"):
        numbers[name] = {kind: [float(near[kind][name][:, frame - 1].mean()) for frame in horizons] for kind in driven}
    others = [kind for kind in driven if kind != "true"]
    numbers["loss_gap"] = {
        kind: mean_interval([[other - own] for other, own in zip(driven[kind].loss, true.loss, strict=True)]) for kind in others
    }
    # over all frames of a clip: nearer to the truth by so much under its own actions
    numbers["psnr_gap"] = {kind: mean_interval((near["true"]["psnr"] - near[kind]["psnr"]).tolist()) for kind in others}
    numbers["distance_gap"] = {kind: mean_interval((near[kind]["distance"] - near["true"]["distance"]).tolist()) for kind in others}
    numbers["score"] = numbers["loss_gap"]["shuffled"]
    return numbers


def by_robot(clips: Sequence[Clip]) -> list[list[Clip]]:
    """The clips of each robot that has FEWEST or more with actions."""
    groups: dict[str | None, list[Clip]] = {}
    for clip in clips:
        if clip.actions is not None:
            groups.setdefault(clip.robot, []).append(clip)
    return [group for group in groups.values() if len(group) >= FEWEST]


def joined(parts: Sequence[dict[str, Driven]]) -> dict[str, Driven]:
    """What was driven of several robots, as one."""
    return {
        kind: Driven(**{name: sum((getattr(part[kind], name) for part in parts), []) for name in ("actions", "loss", "frames", "tokens")})
        for kind in KINDS
    }
