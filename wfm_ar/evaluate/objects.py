"""Permanence of objects in the rollouts of a world, beside its floors and ceilings, and the strips that show it.

What is scored (permanence.py), all of it as decoded, with nothing pasted from the given picture:

* `rollout`: from the first frame under the true actions;
* `shown`: the same as `wfm generate` shows it by default, refined and with the given picture kept where nothing moves;
* `one_step`: each horizon's frames imagined from the true frames before them, so that errors cannot add up;
* `tokenizer`: the true frames encoded and decoded, the ceiling; also over every frame in which something moves;
* `repeat`: the first true frame for ever, the floor.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.permanence import HORIZONS, EpisodeScore, ObjectScore, pooled, score_episode, summarise

KINDS = ("rollout", "shown", "one_step", "tokenizer", "repeat")
LATE = (16, 32)  # horizons whose worse one the bars judge
WORST = 5  # episodes shown


class ObjectTally:
    """Scores clip by clip: `add` each one, then `summary`."""

    def __init__(self) -> None:
        self.scores: dict[str, list[EpisodeScore]] = {kind: [] for kind in KINDS}
        self.copies: list[EpisodeScore] = []  # the tokenizer's own, of every frame
        self.ids: list[str] = []
        self.with_masks = True

    def add(self, clip: Clip, made: Mapping[str, np.ndarray]) -> None:
        """One clip, of which names and places are known, and its frames by some of KINDS, each uint8 [T, H, H, 3]; repeat is added."""
        self.ids.append(clip.id)
        self.with_masks &= clip.visible is not None
        for kind, frames in {**made, "repeat": clip.frames[:1].repeat(len(clip.frames), axis=0)}.items():
            self.scores[kind].append(scored(clip, frames))
        if "tokenizer" in made:
            self.copies.append(scored(clip, made["tokenizer"], tuple(range(1, len(clip.frames)))))

    def ranked(self) -> list[tuple[str, int, float]]:
        """(mark, number of the clip, mean IoU of what moved) of the strips: the WORST, the median and the best rollout."""
        known = [(score.moved_iou, k) for k, score in enumerate(self.scores["rollout"]) if score.moved_iou is not None]
        order = [(k, iou) for iou, k in sorted(known)]
        if not order:
            return []
        names = {len(order) - 1: f"best of {len(order)}"}
        names.setdefault((len(order) - 1) // 2, f"typical: the median of {len(order)}")
        for place in range(min(WORST, len(order))):
            names.setdefault(place, f"worst {place + 1} of {len(order)}")
        return [(names[place], *order[place]) for place in sorted(names)]

    def summary(self) -> dict[str, Any]:
        """summarise() of each kind that was added, the numbers that bars judge, and the rollouts' episodes in order."""
        report: dict[str, Any] = {kind: summarise(scores) for kind, scores in self.scores.items() if scores}
        report["episodes"] = len(self.ids)
        report["occluded_by"] = (
            "the simulator's masks" if self.with_masks else "colour: the data set holds no masks (wfm data make masks=true)"
        )
        iou = {k: score.moved_iou for k, score in enumerate(self.scores["rollout"])}
        report["by_episode"] = [{"id": name, "moved_iou": iou.get(k)} for k, name in enumerate(self.ids)]
        if self.copies:
            report["copy_iou_in_motion"] = pooled(self.copies, "iou", _moves_now)
            report["copy_other_shape_in_motion"] = pooled(self.copies, "other_shape", _moves_now)
        return report | judged_numbers(report)


def scored(clip: Clip, frames: np.ndarray, horizons: Sequence[int] = HORIZONS) -> EpisodeScore:
    """score_episode of frames that stand for a clip's own."""
    assert clip.names is not None and clip.object_xy is not None, "scored only where the simulator names its objects"
    return score_episode(frames, clip.frames, clip.names, clip.object_xy, visible=clip.visible, horizons=horizons)


def _moves_now(score: ObjectScore) -> bool:
    return score.moving and score.group != "occluded"


def judged_numbers(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of bars.py from a summary; None where nothing of the kind was measured."""
    groups = report["rollout"]["groups"] if "rollout" in report else {}

    def mean(group: str, horizon: int, measure: str) -> float | None:
        value = groups.get(group, {}).get(str(horizon), {}).get(measure)
        return None if value is None else value[0]

    def worse(measure: str) -> float | None:
        values = [mean("moved", horizon, measure) for horizon in LATE]
        known = [value for value in values if value is not None]
        return max(known) if len(known) == len(values) else None

    copy_iou, copy_shape = report.get("copy_iou_in_motion"), report.get("copy_other_shape_in_motion")
    return {
        "copy_iou": copy_iou and copy_iou[0],
        "copy_shape_right": copy_shape and 1 - copy_shape[0],
        "moved_iou_16": mean("moved", 16, "iou"),
        "moved_iou_32": mean("moved", 32, "iou"),
        "moved_vanished": worse("vanished"),
        "moved_other_colour": worse("other_colour"),
        "moved_doubled": worse("doubled"),
        "untouched_iou_32": mean("untouched", 32, "iou"),
        "untouched_vanished_32": mean("untouched", 32, "vanished"),
    }


def one_step_cuts(rate: int, frames: int, horizons: Sequence[int] = HORIZONS) -> Iterator[tuple[int, int]]:
    """(true frames given, frames in all) of the rollouts that are one latent long and hold the horizons, each once."""
    latents = sorted({-(-horizon // rate) for horizon in horizons if horizon < frames})
    yield from ((1 + rate * (latent - 1), 1 + rate * latent) for latent in latents)
