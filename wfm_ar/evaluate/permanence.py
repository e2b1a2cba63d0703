"""Does what a world imagines stay true? Objects compared with the truth one by one: place, presence, colour, shape, number.

`score_episode` compares predicted frames with true ones, object by object, at a few horizons; `summarise` averages over
episodes. Pure numpy; nothing is known here of how the predicted frames were made, so the floors ("repeat the first frame", the
tokenizer's own copy, one step ahead of the truth) are scored by the same call.

Objects are found by their colour, which is unique in a tabletop episode, in the predicted and the true frames alike
(`tabletop_view.colour_mask`); so frames equal to the truth score exactly 1 and 0. The detector itself has an IoU of
0.95 with the simulator's segmentation on frames as rendered (checked in tests/evaluate/test_permanence.py), and 0.90 on the same out of
an mp4, whose colours have half the resolution. At a horizon an object is

* `vanished` if less than 30 % of its true visible area is left in its own colour (a recoloured one is gone in its own, too);
* of `other_colour` if less than half is left and a blob of another colour stands about where it should be;
* of `other_size` if what is left of it is more than 1.4 times as large or small as in truth; `area` is that ratio, averaged. Pixels
  that a peg hides in either frame do not count;
* of `other_shape` if the silhouette of another shape fits better than its own (silhouettes.py); judged where enough of it is seen;
* `doubled` if it is in more pieces than in truth: split, or there twice.

`appeared` counts what comes from nothing: blobs of a colour that no object of the episode has. Each object is in one group:
`occluded` (less than half of it is visible in truth), `moved` (more than 2 cm from its start), `untouched` (at most 2 mm) or
`nudged` (between). A table of means over all of them would hide what happens to the few that move.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wfm_ar.errors import BadData
from wfm_ar.evaluate.intervals import mean_interval
from wfm_ar.evaluate.silhouettes import MARGIN, peg_silhouette, shape_fits
from wfm_ar.worlds.tabletop_scene import SHAPES
from wfm_ar.worlds.tabletop_view import COLOURS, SIZE, colour_mask, find_peg, saturated_mask

HORIZONS = (1, 4, 8, 16, 32)  # frames after the first
GROUPS = ("moved", "untouched", "nudged", "occluded")
MEASURES = ("iou", "vanished", "other_colour", "other_shape", "doubled", "area", "other_size")
MOVED, STILL = 0.02, 0.002  # metres from the start: moved beyond the first, untouched up to the second
MOVING = 0.001  # metres since the frame before
OCCLUDED = 0.5  # share of an object's silhouette; of less than this visible it counts as occluded
VANISHED = 0.3  # share of the true area in the object's own colour; with less it has vanished
LEFT = 0.5  # the same; with less it may have another colour, and its shape cannot be told
LARGER = 1.4  # times the true area, or one in so many, from which an object has another size
PIECE = 0.15  # share of the true area from which a piece counts as a piece
SHAPE_SEEN = 0.7  # share of the true silhouette that neither peg hides, from which a shape is judged
THING = 30  # pixels at 128x128: the smallest blob that counts as a thing (the smallest object has 127)
SEEN = 8  # pixels at 128x128: an object of which less is visible is not scored


@dataclass(frozen=True, kw_only=True)
class ObjectScore:
    """One object at one horizon. None: could not be judged (the object, or too much of it, is hidden in truth)."""

    name: str  # "red cube"
    horizon: int
    group: str  # one of GROUPS
    moving: bool  # by more than 1 mm since the frame before
    iou: float | None  # of its pixels in the predicted and the true frame
    vanished: bool | None
    other_colour: bool | None
    other_shape: bool | None
    doubled: bool | None
    area: float | None  # its pixels over those in truth, 1 = right
    other_size: bool | None  # None for what has vanished, too


@dataclass(frozen=True, kw_only=True)
class EpisodeScore:
    """All objects of an episode at all horizons that it is long enough for."""

    objects: tuple[ObjectScore, ...]
    appeared: Mapping[int, int]  # horizon -> how many things came from nothing

    @property
    def moved_iou(self) -> float | None:
        """Mean IoU of the moved objects over the horizons: what strips are ranked by. None where nothing moved."""
        values = [score.iou for score in self.objects if score.group == "moved" and score.iou is not None]
        return float(np.mean(values)) if values else None


def score_episode(
    predicted: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
    object_xy: np.ndarray,
    *,
    visible: np.ndarray | None = None,
    horizons: Sequence[int] = HORIZONS,
) -> EpisodeScore:
    """Scores predicted frames against true ones.

    Args:
        predicted, truth: uint8 [T, S, S, 3]; frame 0 was given, frame h is horizon h.
        names: "<colour> <shape>" of each of the n objects, colours distinct.
        object_xy: [T, n, 2] metres, the true places.
        visible: [T, n] 0..1, the share of each object's silhouette that the simulator sees; None: the true area in pixels over
            its largest in these frames.
        horizons: those beyond T - 1 are left out.

    Raises:
        BadData: shapes that do not belong together, or unknown names.
    """
    kinds = _check(predicted, truth, names, object_xy, visible)
    frames = [0, *(h for h in horizons if h < len(truth))]
    true, made = truth[frames], predicted[frames]
    true_masks, made_masks = ({colour: colour_mask(clip, colour) for colour, _ in kinds} for clip in (true, made))
    true_pegs, made_pegs = find_peg(true), find_peg(made)
    if visible is None:
        area_nT = np.array([true_masks[colour].sum((1, 2)) for colour, _ in kinds])
        visible_Tn = (area_nT / np.maximum(area_nT.max(axis=1, keepdims=True), 1)).T
    else:
        visible_Tn = np.asarray(visible)[frames]
    places = np.asarray(object_xy)
    moved_Tn = np.linalg.norm(places[frames] - places[:1], axis=2)
    scores, appeared = [], {}
    for place, horizon in list(enumerate(frames))[1:]:
        groups = [_group(moved, seen) for moved, seen in zip(moved_Tn[place], visible_Tn[place], strict=True)]
        true_peg, made_peg = (peg_silhouette(pegs_px[place], truth.shape[1]) for pegs_px in (true_pegs, made_pegs))
        true_mask, made_mask = ({colour: mask[place] for colour, mask in masks.items()} for masks in (true_masks, made_masks))
        saturated = saturated_mask(made[place : place + 1])[0]
        found, appeared[horizon] = _score_frame(kinds, visible_Tn[place], true_mask, made_mask, true_peg, made_peg, saturated)
        moving = np.linalg.norm(places[horizon] - places[horizon - 1], axis=1) > MOVING
        scores += [
            replace(score, horizon=horizon, group=group, moving=bool(now)) for score, group, now in zip(found, groups, moving, strict=True)
        ]
    return EpisodeScore(objects=tuple(scores), appeared=appeared)


def summarise(episodes: Sequence[EpisodeScore]) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals over episodes.

    Returns:
        {"episodes": n, "groups": {group: {horizon: {measure: [mean, low, high] or None, "objects": n}}},
        "appeared": {horizon: [mean, low, high]}}; horizons are strings, as in JSON; groups and horizons without objects are left
        out. A measure's mean is over objects that could be judged; "appeared" is the mean number of things a frame.
    """
    assert episodes, "expected at least one episode"
    horizons = sorted({h for episode in episodes for h in episode.appeared})
    groups: dict[str, Any] = {}
    for group in GROUPS:
        for h in horizons:
            chosen = [[s for s in episode.objects if s.group == group and s.horizon == h] for episode in episodes]
            if count := sum(map(len, chosen)):
                numbers = {name: mean_interval([_judged(scores, name) for scores in chosen]) for name in MEASURES}
                groups.setdefault(group, {})[str(h)] = numbers | {"objects": count}
    appeared = {str(h): mean_interval([[e.appeared[h]] for e in episodes if h in e.appeared]) for h in horizons}
    return {"episodes": len(episodes), "groups": groups, "appeared": appeared}


def pooled(episodes: Sequence[EpisodeScore], measure: str, wanted: Callable[[ObjectScore], bool]) -> list[float] | None:
    """[mean, low, high] of one measure over the wanted objects at all horizons."""
    return mean_interval([_judged([score for score in episode.objects if wanted(score)], measure) for episode in episodes])


def _judged(scores: Sequence[ObjectScore], name: str) -> list[float]:
    return [float(value) for score in scores if (value := getattr(score, name)) is not None]


def _group(moved: float, visible: float) -> str:
    if visible < OCCLUDED:
        return "occluded"
    return "moved" if moved > MOVED else "untouched" if moved <= STILL else "nudged"


def _score_frame(
    kinds: Sequence[tuple[str, str]],
    visible: np.ndarray,
    true: Mapping[str, np.ndarray],
    made: Mapping[str, np.ndarray],
    true_peg: np.ndarray,
    made_peg: np.ndarray,
    saturated: np.ndarray,
) -> tuple[list[ObjectScore], int]:
    """The objects of one frame, and how many things came from nothing.

    visible: [n] 0..1; true, made: colour -> bool [S, S]; the rest: bool [S, S].
    """
    scale = (len(saturated) / SIZE) ** 2
    foreign = saturated & ~np.logical_or.reduce(list(made.values()))
    strange = pieces(foreign, least=THING * scale)
    spare = {colour: _spare_pieces(made[colour], true[colour], made_peg, true_peg, scale) for colour, _ in kinds}
    mains = {colour: _without(made[colour], spare[colour]) for colour, _ in kinds}
    scores = []
    for (colour, shape), seen in zip(kinds, visible, strict=True):
        own, wanted = made[colour], true[colour]
        area, left = int(wanted.sum()), int(own.sum())
        score = ObjectScore(
            name=f"{colour} {shape}",
            horizon=0,
            group="",
            moving=False,
            iou=None,
            vanished=None,
            other_colour=None,
            other_shape=None,
            doubled=None,
            area=None,
            other_size=None,
        )
        if area < SEEN * scale:
            scores.append(score)
            continue
        others = [strange, *(spare[other] for other, _ in kinds if other != colour)]
        recoloured = left < LEFT * area and _take_nearby(others, wanted, area)
        ratio = _area_ratio(own, wanted, true_peg | made_peg, SEEN * scale)
        vanished = left < VANISHED * area
        scores.append(
            replace(
                score,
                iou=int((own & wanted).sum()) / int((own | wanted).sum()),
                vanished=vanished,
                other_colour=recoloured,
                other_shape=_other_shape(mains[colour], wanted, shape, true_peg | made_peg, area / seen),
                area=ratio,
                other_size=None if ratio is None or vanished else not 1 / LARGER <= ratio <= LARGER,
            )
        )
    # last of all: a spare piece of one colour may have turned out to be another object, recoloured
    doubled = [replace(s, doubled=bool(spare[colour])) if s.iou is not None else s for s, (colour, _) in zip(scores, kinds, strict=True)]
    return doubled, len(strange)


def _spare_pieces(own: np.ndarray, wanted: np.ndarray, made_peg: np.ndarray, true_peg: np.ndarray, scale: float) -> list[np.ndarray]:
    """Pieces of a colour beyond as many as there are in truth, those nearest to the true place taken as the object itself.

    What only the peg separates is one piece.
    """
    least = max(PIECE * int(wanted.sum()), SEEN * scale)
    expected = max(1, len(pieces(wanted, least, bridge=true_peg)))
    centre = np.argwhere(wanted).mean(axis=0) if wanted.any() else np.zeros(2)
    return sorted(pieces(own, least, bridge=made_peg), key=lambda blob: np.linalg.norm(blob.mean(axis=0) - centre))[expected:]


def _without(mask: np.ndarray, blobs: Sequence[np.ndarray]) -> np.ndarray:
    mask = mask.copy()
    for blob in blobs:
        mask[tuple(blob.T)] = False
    return mask


def _take_nearby(lots: Sequence[list[np.ndarray]], wanted: np.ndarray, area: int) -> bool:
    """Whether a blob of another colour stands in for the object at `wanted`; it is taken out of its list, for it is explained."""
    centre = np.argwhere(wanted).mean(axis=0)
    for lot in lots:
        for k, blob in enumerate(lot):
            if len(blob) >= VANISHED * area and np.linalg.norm(blob.mean(axis=0) - centre) <= 2 * np.sqrt(area):
                del lot[k]
                return True
    return False


def _other_shape(own: np.ndarray, wanted: np.ndarray, shape: str, pegs: np.ndarray, whole: float) -> bool | None:
    """Whether a silhouette of another shape fits better than the object's own; None where too little is seen to tell.

    whole: the area in pixels that the true object would have if nothing hid it.
    """
    if int((wanted & ~pegs).sum()) < SHAPE_SEEN * whole or int((own & ~pegs).sum()) < LEFT * whole:
        return None
    fits = shape_fits(own, pegs, wanted)
    return max(fits[other] for other in SHAPES if other != shape) > max(fits[shape], fits["true"]) + MARGIN


def _area_ratio(own: np.ndarray, wanted: np.ndarray, pegs: np.ndarray, least: float) -> float | None:
    """Predicted area over true area outside the pegs; None where less than `least` pixels are left to compare with."""
    area = int((wanted & ~pegs).sum())
    return None if area < least else int((own & ~pegs).sum()) / area


def pieces(mask_HW: np.ndarray, least: float, bridge: np.ndarray | None = None) -> list[np.ndarray]:
    """The connected pieces (8 neighbours) of a bool mask with at least `least` pixels: [n, 2] rows and columns each.

    `bridge`: pixels that connect but do not count.
    """
    if np.count_nonzero(mask_HW) < least or not mask_HW.any():
        return []
    width = mask_HW.shape[1] + 2  # a border of one pixel, so that neighbours never wrap around
    counted = set(np.flatnonzero(np.pad(mask_HW, 1)).tolist())
    passable = counted if bridge is None else counted | set(np.flatnonzero(np.pad(bridge, 1)).tolist())
    steps = (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1)
    waiting, seen, found = sorted(counted), set(), []
    for start in waiting:
        if start in seen:
            continue
        seen.add(start)
        blob, front = [], [start]
        while front:
            here = front.pop()
            if here in counted:
                blob.append(here)
            for step in steps:
                if (there := here + step) in passable and there not in seen:
                    seen.add(there)
                    front.append(there)
        if len(blob) >= least:
            found.append(np.stack(np.divmod(np.array(blob), width), axis=1) - 1)
    return found


def _check(
    predicted: np.ndarray, truth: np.ndarray, names: Sequence[str], object_xy: np.ndarray, visible: np.ndarray | None
) -> list[tuple[str, str]]:
    """(colour, shape) of each object. Raises BadData."""
    where = "permanence"
    for what, clip in (("predicted", predicted), ("truth", truth)):
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[1] != clip.shape[2] or clip.shape[3] != 3:
            raise BadData(f"{where}: {what}: got {clip.dtype} {list(clip.shape)}, expected uint8 [T, S, S, 3]; fix: pass frames")
    if predicted.shape != truth.shape:
        got = f"{list(predicted.shape)} and {list(truth.shape)}"
        raise BadData(f"{where}: got predicted and true frames of {got}, expected one shape; fix: predict the frames that are compared")
    for what, array, shape in (
        ("object_xy", object_xy, (len(truth), len(names), 2)),
        ("visible", visible, (len(truth), len(names))),
    ):
        if array is not None and np.shape(array) != shape:
            raise BadData(f"{where}: {what}: got {list(np.shape(array))}, expected {list(shape)}; fix: take it from the same episode")
    kinds: list[Any] = [tuple(str(name).split(" ", 1)) for name in names]
    for name, kind in zip(names, kinds, strict=True):
        if len(kind) != 2 or kind[0] not in COLOURS or kind[1] not in SHAPES:
            raise BadData(f"{where}: got an object named {str(name)!r}, expected a colour and a shape such as 'red cube'; fix: rename it")
    if len({colour for colour, _ in kinds}) < len(kinds):
        raise BadData(f"{where}: got {', '.join(map(str, names))}, expected one object of a colour; fix: leave the episode out")
    return kinds
