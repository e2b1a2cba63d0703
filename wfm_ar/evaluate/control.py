"""Does a world model do as it is told? Action following and text following on the tabletop, measured in generated frames.

**Action following.** From the first frame of a held-out episode the model is driven with four kinds of actions:
`true` (the episode's own), `shuffled` (those of another episode, its partner), `mirrored` (the negated true ones) and `zero`.
No text is given. The peg's white tip is found in every generated frame; its displacement over STEP frames (whatever the
world's rate, so that worlds compare) is compared with the commanded one, in pixels. The commanded path starts at the peg's
true place, adds up the actions, stops at the walls as the real peg does, and is projected by the scene's camera: nothing is
fitted.

`r` is Pearson's correlation over all steps of all episodes, taken for x and for y apart; the worse of the two is the
number reported, so a model that follows along one axis only does not pass. A peg that is not found counts as not having
moved. What is reported:

* `r_true`: true actions against their own commands; and the pixel error of the peg against the simulator's true path.
* `r_shuffled`: the larger |r| of two numbers that must both be near zero: rollouts under true actions against the *partner's*
  commands (would the measure call anything "following"?), and rollouts under the partner's actions against the commands
  the start frame's *own* episode had (does the model replay what usually happens from there, whatever it is told?).
* `drives`: for each kind of actions, r against the commands given. A model that ignores its actions but guesses the policy
  well has a high r_true and fails here.
* `r_driven`, `found_driven`: the worst r, and the smallest share of frames in which the peg is found, of the three kinds in DRIVEN.
* `zero`: how far the peg strays when told to stay.

Partners are the cyclic shift of the episode list whose commands are least correlated with the episodes' own; it is chosen
from the commands alone, before any rollout.

**Text following.** From the first frame of a held-out push episode, with its own text and no actions. The named object is
found by its colour in the first (true) and last (generated) frame; both places are taken to metres on the level plane at the
height of its middle. It followed if it moved at least MOVED metres along the named direction. Not found is not followed.
The same is done with the opposite direction in the text, as a control: a model that pushes without reading would score alike.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wfm_ar.evaluate.metrics import pearson_r
from wfm_ar.worlds.tabletop_policy import DIRECTIONS
from wfm_ar.worlds.tabletop_scene import PEG_RANGE_X, PEG_RANGE_Y, REST_HEIGHT
from wfm_ar.worlds.tabletop_view import COLOURS, TIP_HEIGHT, find_object, find_peg, to_metres, to_pixels

STEP = 4  # frames, whatever the world's rate: over fewer the rounding of the peg's place would weigh as much as its way
DRIVES = ("true", "shuffled", "mirrored", "zero")
DRIVEN = ("true", "shuffled", "mirrored")  # those that tell the peg to go somewhere
MOVED = 0.03  # metres the named object must move in the named direction
OPPOSITE = {"left": "right", "right": "left", "away": "closer", "closer": "away"}
MIN_R_TRUE, MAX_R_SHUFFLED = 0.9, 0.2  # the bars
MIN_R_DRIVEN = 0.8  # r of shuffled and mirrored actions against their own commands: rarer in training than the policy's
MAX_ZERO_DRIFT = 3.0  # pixels a STEP, mean, when told to stay: an eighth of full speed at 128x128
MIN_FOUND = 0.95  # share of generated frames in which the peg must be found


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One rollout under one kind of actions: what was commanded and where the peg was seen."""

    commanded_px: np.ndarray  # [T, 2] pixels, the commanded path
    peg_px: np.ndarray  # [T, 2] pixels, found in the frames; gaps filled with the last place seen
    found: float  # share of the frames after the first in which the peg was found


def drive(actions: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The four kinds of actions, DRIVES, for episodes whose true ones are `actions`: each [N, 2], all of one length, 2 or more."""
    lengths = {len(a) for a in actions}
    assert len(actions) >= 2 and len(lengths) == 1, f"expected two or more episodes of one length, got lengths {sorted(lengths)}"
    shift = _partner_shift(actions)
    return {
        "true": list(actions),
        "shuffled": [actions[(i + shift) % len(actions)] for i in range(len(actions))],
        "mirrored": [-a for a in actions],
        "zero": [np.zeros_like(a) for a in actions],
    }


def watch(frames: np.ndarray, actions: np.ndarray, start_xy: np.ndarray) -> Trial:
    """A Trial from frames uint8 [T, H, H, 3], the T-1 actions given ([T-1, 2] metres) and the peg's true start [2] metres."""
    assert len(frames) == len(actions) + 1, f"expected one action between two frames, got {len(frames)} and {len(actions)}"
    commanded_px = commanded_path(start_xy, actions, size=frames.shape[1])
    peg_px = find_peg(frames)
    found = ~np.isnan(peg_px[:, 0])
    last = commanded_px[0]
    for t in range(len(peg_px)):
        last = peg_px[t] = peg_px[t] if found[t] else last
    return Trial(commanded_px=commanded_px, peg_px=peg_px, found=float(found[1:].mean()))


def commanded_path(start_xy: np.ndarray, actions: np.ndarray, *, size: int) -> np.ndarray:
    """Pixels [N+1, 2] of the peg's tip if it did exactly as told from start_xy [2]: actions [N, 2] metres, stopped at the walls."""
    room = np.array([PEG_RANGE_X, PEG_RANGE_Y])
    path = [np.asarray(start_xy, dtype=np.float64)]
    for action in actions:
        path.append(np.clip(path[-1] + action, -room, room))
    return to_pixels(np.concatenate([np.stack(path), np.full((len(path), 1), TIP_HEIGHT)], axis=1), size)


def action_following(trials: Mapping[str, Sequence[Trial]], true_px: Sequence[np.ndarray], *, step: int) -> dict[str, Any]:
    """The numbers of the module's first part. `trials` maps each of DRIVES to one Trial an episode; true_px: [T, 2] each, pixels."""
    true, shuffled = trials["true"], trials["shuffled"]
    null = follow([t.peg_px for t in true], [t.commanded_px for t in shuffled], step)
    replay = follow([t.peg_px for t in shuffled], [t.commanded_px for t in true], step)
    own = {name: follow([t.peg_px for t in trials[name]], [t.commanded_px for t in trials[name]], step) for name in DRIVES}
    error_T = np.mean([np.linalg.norm(t.peg_px - px, axis=1) for t, px in zip(true, true_px, strict=True)], axis=0)
    strays = [np.linalg.norm(_steps(t.peg_px, step), axis=1) for t in trials["zero"]]
    return {
        "r_true": min(own["true"]),
        "r_shuffled": max(abs(r) for r in (*null, *replay)),
        "r_driven": min(min(own[name]) for name in DRIVEN),
        "found_driven": min(float(np.mean([t.found for t in trials[name]])) for name in DRIVEN),
        "r_true_xy": own["true"],
        "r_against_partner_xy": null,
        "r_replay_xy": replay,
        "pixel_error": float(error_T[1:].mean()),
        "pixel_error_by_frame": error_T.tolist(),
        "zero_drift_px": float(np.mean(strays)),
        "zero_drift_end_px": float(np.mean([np.linalg.norm(t.peg_px[-1] - t.commanded_px[0]) for t in trials["zero"]])),
        "drives": {name: _drive_numbers(trials[name], own[name], step) for name in DRIVES},
        "episodes": len(true),
    }


def action_gate(report: Mapping[str, Any]) -> list[str]:
    """What keeps a model from counting as action-following, one line each; [] if nothing. `report` is from action_following."""
    drives = report["drives"]
    checks = [
        (report["r_true"] >= MIN_R_TRUE, f"true actions: r {report['r_true']:.3f}, expected >= {MIN_R_TRUE}"),
        (report["r_shuffled"] <= MAX_R_SHUFFLED, f"other episodes' actions: |r| {report['r_shuffled']:.3f}, expected <= {MAX_R_SHUFFLED}"),
        (
            report["zero_drift_px"] <= MAX_ZERO_DRIFT,
            f"zero actions: the peg strays {report['zero_drift_px']:.1f} px in {STEP} frames, expected <= {MAX_ZERO_DRIFT}",
        ),
    ]
    for name in ("shuffled", "mirrored"):
        r = min(drives[name]["r_xy"])
        checks.append((r >= MIN_R_DRIVEN, f"{name} actions: r with their own commands {r:.3f}, expected >= {MIN_R_DRIVEN}"))
    for name in DRIVES:
        found = drives[name]["found"]
        checks.append(
            (found >= MIN_FOUND, f"{name} actions: peg found in {100 * found:.1f} % of frames, expected >= {100 * MIN_FOUND:.0f} %")
        )
    return [line for passed, line in checks if not passed]


def _drive_numbers(trials: Sequence[Trial], r_xy: tuple[float, float], step: int) -> dict[str, Any]:
    commanded_error_T = np.mean([np.linalg.norm(t.peg_px - t.commanded_px, axis=1) for t in trials], axis=0)
    return {
        "r_xy": r_xy,
        "commanded_error_px": float(commanded_error_T[1:].mean()),
        "commanded_error_by_frame": commanded_error_T.tolist(),
        "found": float(np.mean([t.found for t in trials])),
        "told_px": _pooled([t.commanded_px for t in trials], step).round(2).tolist(),
        "seen_px": _pooled([t.peg_px for t in trials], step).round(2).tolist(),
    }


def _partner_shift(actions: Sequence[np.ndarray]) -> int:
    """The cyclic shift 1..n-1 of the episodes whose summed commands correlate least with the episodes' own, worse axis."""
    actions_ENA = np.stack(actions)
    scores = [
        max(abs(pearson_r(actions_ENA[..., c], np.roll(actions_ENA, -shift, axis=0)[..., c])) for c in range(2))
        for shift in range(1, len(actions))
    ]
    return 1 + int(np.argmin(scores))


def _steps(path_px: np.ndarray, step: int) -> np.ndarray:
    """Displacements [n, 2] between the frames 0, step, 2*step, ..."""
    return np.diff(path_px[::step], axis=0)


def _pooled(paths_px: Sequence[np.ndarray], step: int) -> np.ndarray:
    """The steps of all episodes, [episodes * n, 2]."""
    return np.concatenate([_steps(path, step) for path in paths_px])


def follow(paths_px: Sequence[np.ndarray], commanded_px: Sequence[np.ndarray], step: int) -> tuple[float, float]:
    """(r of x, r of y) of the displacements over `step` frames, pooled over the episodes."""
    seen, told = _pooled(paths_px, step), _pooled(commanded_px, step)
    return pearson_r(seen[:, 0], told[:, 0]), pearson_r(seen[:, 1], told[:, 1])


@dataclass(frozen=True, kw_only=True)
class Push:
    """What "push the red cube left" asks for."""

    colour: str
    shape: str
    direction: str

    @property
    def text(self) -> str:
        return f"push the {self.colour} {self.shape} {self.direction}"

    @property
    def opposite(self) -> "Push":
        return Push(colour=self.colour, shape=self.shape, direction=OPPOSITE[self.direction])


def parse_push(text: str | None) -> Push | None:
    """The push that an episode's text asks for, or None where it asks for something else."""
    pattern = f"push the ({'|'.join(COLOURS)}) ({'|'.join(REST_HEIGHT)}) ({'|'.join(DIRECTIONS)})"
    match = re.fullmatch(pattern, (text or "").strip().lower())
    return Push(colour=match[1], shape=match[2], direction=match[3]) if match else None


def moved_along(first: np.ndarray, last: np.ndarray, push: Push) -> float | None:
    """Metres the named object moved along the named direction between two frames, uint8 [H, H, 3]; None where it is not found."""
    places = to_metres(find_object(np.stack([first, last]), push.colour), REST_HEIGHT[push.shape], len(first))
    along = float((places[1] - places[0]) @ np.array(DIRECTIONS[push.direction]))
    return None if np.isnan(along) else along


def text_following(pushes: Sequence[Push], moves: Sequence[float | None]) -> dict[str, Any]:
    """Share of prompts followed and its parts. `moves`: moved_along of each rollout, metres or None."""
    assert len(pushes) == len(moves) > 0, f"expected one result a prompt, got {len(moves)} and {len(pushes)}"
    followed = np.array([move is not None and move >= MOVED for move in moves])
    shares = {}
    for direction in DIRECTIONS:
        here = np.array([push.direction == direction for push in pushes])
        shares[direction] = {"episodes": int(here.sum()), "followed": float(followed[here].mean()) if here.any() else None}
    seen = [move for move in moves if move is not None]
    return {
        "followed": float(followed.mean()),
        "episodes": len(pushes),
        "not_found": len(moves) - len(seen),
        "mean_moved_m": float(np.mean(seen)) if seen else None,
        "by_direction": shares,
        "moved_m": list(moves),
    }


Generate = Callable[[str, Sequence[np.ndarray]], Iterable[np.ndarray]]


def measure_actions(
    generate: Generate,
    actions: Sequence[np.ndarray],
    peg_xy: Sequence[np.ndarray],
    *,
    size: int,
    step: int,
    true_trials: Sequence[Trial] | None = None,
) -> dict[str, Any]:
    """Drives `generate` all four ways and returns action_following's numbers.

    generate(kind, actions) rolls each episode out from its first frame under actions [N, 2] metres of one kind of DRIVES and
    gives one clip uint8 [T, size, size, 3] a row, T = 1 + N. `actions`, peg_xy ([T, 2] metres): the true ones of each episode.
    `true_trials`: the Trials of the true actions, where they were rolled out already.
    """
    trials = {} if true_trials is None else {"true": true_trials}
    for kind, given in drive(actions).items():
        if kind not in trials:
            rows = zip(generate(kind, given), given, peg_xy, strict=True)
            trials[kind] = [watch(clip, row, xy[0]) for clip, row, xy in rows]
    return action_following(trials, [true_path(xy, size=size) for xy in peg_xy], step=step)


def true_path(peg_xy: np.ndarray, *, size: int) -> np.ndarray:
    """Pixels [T, 2] of the tip of a peg at peg_xy [T, 2] metres."""
    return to_pixels(np.concatenate([peg_xy, np.full((len(peg_xy), 1), TIP_HEIGHT)], axis=1), size)
