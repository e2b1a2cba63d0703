"""Does a world know which text a clip is of? For any data with several texts: the right one among wrong ones, by the clip's likelihood.

The model reads a true clip with its text, and with others of the set, without actions (which would tell all): the text under which the
clip costs least is its choice.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.intervals import mean_interval

WRONG = 3  # texts that a clip's own is put among


def text_choice_numbers(
    clips: Sequence[Clip], texts: Sequence[str], cost: Callable[[Clip, str], float], seed: int = 0
) -> dict[str, Any] | None:
    """`cost` of a clip under a text, nats a latent; `texts`: all of the set. None where there are not two texts, or no clip has one."""
    known = sorted(set(texts))
    asked = [clip for clip in clips if clip.text in known]
    if len(known) < 2 or not asked:
        return None
    right, gaps, count = [], [], min(WRONG, len(known) - 1)
    for k, clip in enumerate(asked):
        others = [text for text in known if text != clip.text]
        chosen = np.random.default_rng((seed, k)).choice(len(others), count, replace=False)
        assert clip.text is not None, "chosen for it"
        own, wrong = cost(clip, clip.text), [cost(clip, others[int(i)]) for i in chosen]
        # a model that reads no text finds all equal: it has not chosen the right one
        right.append([float(own < min(wrong))])
        gaps.append([float(np.mean(wrong) - own)])
    return {
        "clips": len(asked),
        "texts": len(known),
        "chance": 1 / (count + 1),
        "right": mean_interval(right),
        "gap": mean_interval(gaps),
    }
