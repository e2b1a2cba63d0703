"""Does a text make what it names? From a picture and a text, from a text alone, and with texts that name what is not there.

Every number says from what it was made:

* `picture_and_text`: the first frame of a held-out push and its own text. It followed if the named object moved at least
  MOVED metres in the named direction (control.py). The opposite direction, from the same frames, is the control.
* `text_alone`: the same texts and no picture. The named object, in its colour and its shape, must be in the first imagined frame;
  it followed if it is there, moves as told, and is the one that moves most.
* `absent`: the first frame and a text that names a colour which is not there. No object of that colour may appear from nothing;
  how often something else is pushed instead is told too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wfm_ar.evaluate import control
from wfm_ar.evaluate.bench import Bench
from wfm_ar.evaluate.control import MOVED, Push
from wfm_ar.evaluate.heldout import Clip, HeldOut
from wfm_ar.evaluate.intervals import mean_interval
from wfm_ar.evaluate.permanence import THING, pieces
from wfm_ar.evaluate.sheets import Sheet
from wfm_ar.evaluate.silhouettes import MARGIN, peg_silhouette, shape_fits
from wfm_ar.rollout.world import Prompt
from wfm_ar.worlds.tabletop_scene import SHAPES
from wfm_ar.worlds.tabletop_view import COLOURS, SIZE, colour_mask, find_object, find_peg, to_metres

FAILURES = 2  # failures that are shown beside the first examples
FITS = 0.6  # IoU with a silhouette from which a blob may be called that shape
HEIGHT = 0.031  # metres, the middle of any object above the table, to 2 mm


def object_there(frame: np.ndarray, push: Push) -> bool:
    """Whether a picture uint8 [S, S, 3] holds one object of the named colour, and it has the named shape."""
    mask = colour_mask(frame[None], push.colour)[0]
    peg = peg_silhouette(find_peg(frame[None])[0], len(frame))
    if len(pieces(mask, THING * (len(frame) / SIZE) ** 2, bridge=peg)) != 1:
        return False
    fits = shape_fits(mask, peg)
    others = max(fits[shape] for shape in SHAPES if shape != push.shape)
    return fits[push.shape] >= FITS and fits[push.shape] >= others - MARGIN


def moved_most(first: np.ndarray, last: np.ndarray) -> str | None:
    """The colour of the object that moved farthest between two pictures, of those found in both; None if none moved MOVED metres."""
    ways = {}
    for colour in COLOURS:
        places = to_metres(find_object(np.stack([first, last]), colour), HEIGHT, len(first))
        if np.isfinite(places).all():
            ways[colour] = float(np.linalg.norm(places[1] - places[0]))
    colour = max(ways, key=ways.__getitem__, default=None)
    return colour if colour is not None and ways[colour] >= MOVED else None


def absent_push(clip: Clip, push: Push, k: int) -> Push:
    """The k-th text about something that is not there: another colour than any in the first frame, the rest as in `push`."""
    seen = {colour: int(colour_mask(clip.frames[:1], colour).sum()) for colour in COLOURS}
    least = THING * (clip.frames.shape[1] / SIZE) ** 2
    free = [colour for colour, pixels in seen.items() if pixels < least] or [min(seen, key=seen.__getitem__)]
    return replace(push, colour=free[k % len(free)])


def text_alone_summary(pushes: Sequence[Push], clips: Sequence[np.ndarray]) -> dict[str, Any]:
    """Shares with intervals over clips, uint8 [T, S, S, 3], that were made from the pushes' texts alone."""
    there = [object_there(clip[0], push) for clip, push in zip(clips, pushes, strict=True)]
    coloured = [bool(np.isfinite(find_object(clip[:1], push.colour)).all()) for clip, push in zip(clips, pushes, strict=True)]
    moves = [control.moved_along(clip[0], clip[-1], push) for clip, push in zip(clips, pushes, strict=True)]
    most = [moved_most(clip[0], clip[-1]) == push.colour for clip, push in zip(clips, pushes, strict=True)]
    followed = [a and m is not None and m >= MOVED and b for a, m, b in zip(there, moves, most, strict=True)]
    shares = {"there": there, "colour_there": coloured, "moved_most": most, "followed": followed}
    report: dict[str, Any] = {f"{name}_interval": _share(values) for name, values in shares.items()}
    return report | {name: report[f"{name}_interval"][0] for name in shares} | {"episodes": len(clips), "moved_m": moves, "all": followed}


def absent_summary(pushes: Sequence[Push], clips: Sequence[np.ndarray]) -> dict[str, Any]:
    """Shares with intervals over clips whose text named what is not in their first frame."""
    appeared, pushed = [], []
    for clip, push in zip(clips, pushes, strict=True):
        late = clip[[len(clip) // 2, -1]]
        least = THING * (clip.shape[1] / SIZE) ** 2
        appeared.append(any(pieces(mask, least) for mask in colour_mask(late, push.colour)))
        pushed.append(moved_most(clip[0], clip[-1]) is not None)
    report: dict[str, Any] = {"appeared_interval": _share(appeared), "something_else_moved_interval": _share(pushed)}
    shares = {name: report[f"{name}_interval"][0] for name in ("appeared", "something_else_moved")}
    return report | shares | {"episodes": len(clips), "all": [not value for value in appeared]}


def _share(values: Sequence[bool]) -> list[float]:
    share = mean_interval([[float(value)] for value in values])
    assert share is not None, "of one episode at least"
    return share


def text_section(bench: Bench, pushes: HeldOut) -> tuple[dict[str, Any], list[Sheet]]:
    """All of the module's numbers on episodes whose text is a push. Its top level is `picture_and_text`."""
    clips = list(pushes)
    asked = [push for clip in clips if (push := control.parse_push(clip.text)) is not None]
    assert len(asked) == len(clips), "of episodes whose text is a push"
    opposite = [push.opposite for push in asked]
    absent = [absent_push(clip, push, k) for k, (clip, push) in enumerate(zip(clips, asked, strict=True))]
    sheets: list[Sheet] = []
    moves = {}
    for kind, told in (("own text", asked), ("opposite text", opposite)):
        made = _rolled(bench, clips, told, f"picture, {kind}")
        moves[kind] = [control.moved_along(clip.frames[0], frames[-1], push) for clip, frames, push in zip(clips, made, told, strict=True)]
        if kind == "own text":
            most = [moved_most(clip.frames[0], frames[-1]) == push.colour for clip, frames, push in zip(clips, made, told, strict=True)]
        followed = [moved is not None and moved >= MOVED for moved in moves[kind]]
        notes = ["not found in the last frame" if m is None else f"moved {100 * m:.1f} cm in the named direction" for m in moves[kind]]
        sheets += _sheets(bench, clips, told, made, followed, f"picture and {kind}", notes, failures=kind == "own text")
    numbers = control.text_following(asked, moves["own text"])
    numbers["followed_interval"] = _share([moved is not None and moved >= MOVED for moved in moves["own text"]])
    numbers["moved_most"] = float(np.mean(most))
    numbers["opposite"] = control.text_following(opposite, moves["opposite text"])
    truth = [control.moved_along(clip.frames[0], clip.frames[-1], push) for clip, push in zip(clips, asked, strict=True)]
    numbers["truth_followed"] = control.text_following(asked, truth)["followed"]

    made = _rolled(bench, clips, asked, "text alone", picture=False)
    numbers["text_alone"] = text_alone_summary(asked, made)
    named = ["the named object is in frame 0" if object_there(c[0], p) else "not in frame 0" for c, p in zip(made, asked, strict=True)]
    numbers |= {f"alone_{name}": numbers["text_alone"][name] for name in ("there", "followed")}
    sheets += _sheets(bench, clips, asked, made, numbers["text_alone"].pop("all"), "text alone", named, truth=False, failures=True)
    made = _rolled(bench, clips, absent, "absent objects")
    numbers["absent"] = absent_summary(absent, made)
    sheets += _sheets(bench, clips, absent, made, numbers["absent"].pop("all"), "picture and a text about what is not there", failures=True)
    return numbers, sheets


def _rolled(bench: Bench, clips: Sequence[Clip], told: Sequence[Push], name: str, picture: bool = True) -> list[np.ndarray]:
    """Raw frames of a rollout a text, from the first frame of its clip or from nothing."""
    config = bench.config
    prompts = [
        Prompt(
            video=clip.frames[:1] if picture else None,
            text=push.text,
            num_frames=config.frames,
            seed=config.seed + k,
            imagine=config.imagine,
        )
        for k, (clip, push) in enumerate(zip(clips, told, strict=True))
    ]
    return [rolled.raw_frames for rolled in bench.roll(clips, prompts, guidance="text_guidance", refine=False, name=name)]


def _sheets(
    bench: Bench,
    clips: Sequence[Clip],
    told: Sequence[Push],
    made: Sequence[np.ndarray],
    followed: Sequence[bool],
    source: str,
    notes: Sequence[str] | None = None,
    *,
    truth: bool = True,
    failures: bool,
) -> list[Sheet]:
    """The first examples and, if asked for, the first failures after them; each says from what it was made."""
    shown = list(range(min((bench.config.examples + 1) // 2, len(clips))))
    if failures:
        shown += [k for k in range(len(shown), len(clips)) if not followed[k]][:FAILURES]
    sheets = []
    for k in shown:
        own = control.parse_push(clips[k].text)
        rows = [("truth", clips[k].frames)] * (truth and own is not None and told[k].text == own.text) + [("rollout, raw", made[k])]
        title = f"from {source}: {told[k].text} (episode {clips[k].id})"
        mark, fps = "" if followed[k] else "failure", bench.acting(clips[k]).fps
        sheets.append(Sheet(title=title, note=notes[k] if notes else "", rows=tuple(rows), mark=mark, fps=fps))
    return sheets
