"""A free run: thousands of frames under wandering actions, in flat memory. What is still there after a minute, two, five?

There is no truth to compare with, for a simulator driven by the same actions would soon stand elsewhere. So each run is
compared with its own first frame, once a second: which of its objects are still there (30 % of their first area or more, in
their colour), in one piece, of their shape; how many things came from nothing; how far the background drifted; whether the peg is
found. The policy sees what is imagined and wanders among it: to objects, past them, into walls.

Runs are rolled as one batch, latent by latent, and shown as they are decoded: nothing is pasted and nothing is kept but the
frames that are looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.intervals import mean_interval
from wfm_ar.evaluate.permanence import PIECE, THING, VANISHED, pieces
from wfm_ar.evaluate.silhouettes import MARGIN, peg_silhouette, shape_fits
from wfm_ar.rollout.engine import Actions, Batch, Row
from wfm_ar.rollout.frame_decoder import FrameDecoder, to_uint8
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world import World
from wfm_ar.worlds.tabletop_policy import RandomPolicy
from wfm_ar.worlds.tabletop_scene import PEG_RANGE_X, PEG_RANGE_Y, REST_HEIGHT, SHAPES
from wfm_ar.worlds.tabletop_view import SIZE, colour_mask, find_object, find_peg, saturated_mask, to_metres

END = 10.0  # seconds at the end over which an object must be there in most looks to count as still there
MEASURES = ("there", "in_pieces", "own_shape", "appeared", "background_drift", "peg_found")


@dataclass(kw_only=True)
class Watcher:
    """One run: looks at frames and remembers what it saw."""

    names: Sequence[str]
    first: np.ndarray  # uint8 [S, S, 3], the given frame, which says how large the objects are
    copy: np.ndarray  # the same as decoded, from which the background may drift
    looks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._areas = {name: int(colour_mask(self.first[None], name.split()[0]).sum()) for name in self.names}
        self._things = saturated_mask(self.first[None])[0]

    def look(self, frame: np.ndarray, second: float) -> None:
        """At one frame, uint8 [S, S, 3], `second` seconds after the first."""
        tip = find_peg(frame[None])[0]
        peg = peg_silhouette(tip, len(frame))
        scale = (len(frame) / SIZE) ** 2
        things = saturated_mask(frame[None])[0]
        foreign, there, split, shapes = things.copy(), {}, [], []
        for name in self.names:
            colour, shape = name.split()
            mask = colour_mask(frame[None], colour)[0]
            foreign &= ~mask
            there[name] = int(mask.sum()) >= VANISHED * self._areas[name]
            if there[name]:
                split.append(len(pieces(mask, PIECE * self._areas[name], bridge=peg)) > 1)
                fits = shape_fits(mask, peg)
                shapes.append(fits[shape] >= max(fits[other] for other in SHAPES if other != shape) - MARGIN)
        ground = ~(things | self._things | peg)
        drift = np.abs(frame.astype(np.int16) - self.copy)[ground].mean()
        self.looks.append(
            {
                "second": second,
                "objects": there,
                "there": list(map(float, there.values())),
                "in_pieces": list(map(float, split)),
                "own_shape": list(map(float, shapes)),
                "appeared": [float(len(pieces(foreign, THING * scale)))],
                "background_drift": [float(drift)],
                "peg_found": [float(np.isfinite(tip).all())],
            }
        )


def free_run(
    world: World,
    clips: Sequence[Clip],
    *,
    frames: int,
    seeds: Sequence[int],
    sampling: SamplingConfig,
    track=lambda items, name, total: items,
) -> tuple[list[Watcher], list[np.ndarray]]:
    """Runs on from the first frame of each clip for `frames` frames -> (what was seen, one frame a second uint8 [n, S, S, 3]) of each.

    Clips need names, and the world the tabletop's two actions. seeds: of each clip's tokens and of its way.
    """
    parts, rate, fps = world.parts, world.rate, max(1, round(world.fps))
    runs = [_Wanderer(clip, np.random.default_rng([seed, 1])) for clip, seed in zip(clips, seeds, strict=True)]
    decoders = [FrameDecoder(parts.video_tokenizer, None, seed, None) for seed in seeds]
    given = [torch.from_numpy(world.encode(clip.frames[:1])) for clip in clips]
    rows = [Row(seed=seed, tokens=tuple(tokens), bins=(None,)) for seed, tokens in zip(seeds, given, strict=True)]
    watchers, kept, last = [], [[] for _ in clips], []
    for k, (clip, decoder, tokens) in enumerate(zip(clips, decoders, given, strict=True)):
        last.append(_frames(decoder, tokens[0])[-1])
        assert clip.names is not None, "such clips alone"
        watchers.append(Watcher(names=clip.names, first=clip.frames[0], copy=last[-1]))
        kept[k].append(last[-1])
    batch = Batch(parts.world_model, world.sequence, rows, sampling, world.lookahead)
    latents = -(-(frames - 1) // rate)
    for latent in track(range(latents), "free run", latents):
        actions_BrA = [run.act(frame, rate) for run, frame in zip(runs, last, strict=True)]
        bins_BrA = torch.stack([world.bins_of(actions_rA)[0] for actions_rA in actions_BrA])
        for k, tokens_hw in enumerate(batch.advance(Actions.GIVEN, bins_BrA)):
            made = _frames(decoders[k], tokens_hw)
            last[k] = made[-1]
            for number, frame in enumerate(made, 1 + latent * rate):
                if number % fps == 0:
                    watchers[k].look(frame, number / world.fps)
                    kept[k].append(frame)
    return watchers, [np.stack(one) for one in kept]


def free_run_summary(watchers: Sequence[Watcher]) -> dict[str, Any]:
    """By minute, means with intervals over runs; and the share of objects that are still there at the end.

    Returns:
        {"runs", "seconds", "there_at_the_end": share, "there_at_the_end_interval", "by_minute": {measure: [[mean, low, high] a minute]}}.
        "in_pieces" and "own_shape" are of the objects that are there, "appeared" is things a frame, "background_drift" grey levels.
    """
    end = max(look["second"] for watcher in watchers for look in watcher.looks)
    minutes = range(int((end - 1e-6) // 60) + 1)
    by_minute = {
        name: [
            mean_interval([[v for look in w.looks if (look["second"] - 1e-6) // 60 == minute for v in look[name]] for w in watchers])
            for minute in minutes
        ]
        for name in MEASURES
    }
    kept = []
    for watcher in watchers:
        late = [look["objects"] for look in watcher.looks if look["second"] > end - END]
        kept.append([float(np.mean([look[name] for look in late]) >= 0.5) for name in watcher.names])
    share = mean_interval(kept)
    assert share is not None, "of one run at least"
    report = {"runs": len(watchers), "seconds": end, "there_at_the_end": share[0], "there_at_the_end_interval": share}
    return report | {"by_minute": by_minute}


class _Wanderer:
    """The wandering policy, told where the imagined frames show the peg and the objects; what it cannot see is where it last was."""

    def __init__(self, clip: Clip, rng: np.random.Generator) -> None:
        assert clip.names is not None and clip.peg_xy is not None and clip.object_xy is not None, "of the tabletop's state"
        self._names, self._policy = clip.names, RandomPolicy(None, rng)
        self._peg_xy, self._object_xy = np.array(clip.peg_xy[0], float), np.array(clip.object_xy[0], float)

    def act(self, frame: np.ndarray, count: int) -> np.ndarray:
        """The next `count` actions, float32 [count, 2] metres, after this frame."""
        tip = to_metres(find_peg(frame[None]), size=len(frame))[0]
        self._peg_xy = tip if np.isfinite(tip).all() else self._peg_xy
        for k, name in enumerate(self._names):
            colour, shape = name.split()
            place = to_metres(find_object(frame[None], colour), REST_HEIGHT[shape], len(frame))[0]
            if np.isfinite(place).all():
                self._object_xy[k] = place
        actions = []
        for _ in range(count):
            actions.append(self._policy.act(self._peg_xy, self._object_xy))
            self._peg_xy = np.clip(self._peg_xy + actions[-1], (-PEG_RANGE_X, -PEG_RANGE_Y), (PEG_RANGE_X, PEG_RANGE_Y))
        return np.array(actions, np.float32)


@torch.inference_mode()
def _frames(decoder: FrameDecoder, tokens_hw: torch.Tensor) -> np.ndarray:
    return to_uint8(decoder.decode(tokens_hw))
