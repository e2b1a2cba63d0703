"""How long the rest of a stage takes, also while its steps still wait for frames that are decoded for the first time.

The first steps of a run on large video wait for the decoder, later ones find their frames in the cache (wfm_ar/data/frame_cache.py). The
mean over all steps so far would promise hours that never come. So the two are told apart: what a step takes without those waits, and what
a newly decoded frame costs. Windows are drawn at random: of `total` frames of which `missing` are not decoded yet, steps that touch n
more are expected to decode missing * (1 - exp(-n / total)).
"""

import math
import time
from collections.abc import Callable


class TimeLeft:
    """Estimates from the steps of this process alone; validations and checkpoints are part of a step's time."""

    def __init__(
        self,
        start: int,
        steps: int,
        to_decode: Callable[[], tuple[int, int] | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """to_decode: (frames to be decoded yet, all frames), as Clips.to_decode has it; None: steps are all alike."""
        self.start, self.steps, self.to_decode, self.clock = start, steps, to_decode, clock
        self.began = clock()
        self.missing, self.total = (to_decode and to_decode()) or (0, 0)
        self.decoded, self.shares = 0, 0.0  # frames; sum over the steps of the share of frames that was missing
        self.waits = {True: [0, 0.0], False: [0, 0.0]}  # of steps in which frames were decoded, and of the others: number, seconds

    def step(self, waited: float) -> None:
        """A step waited so many seconds for its batch."""
        if not self.total or self.to_decode is None:
            return
        now = self.to_decode()
        if now is None:  # not all frames find room: some are decoded at every use, and steps stay as they are
            self.total = 0
            return
        new = max(0, self.missing - now[0])
        self.shares += self.missing / self.total
        self.missing, self.decoded = now[0], self.decoded + new
        self.waits[new > 0][0] += 1
        self.waits[new > 0][1] += waited

    def seconds(self, done: int) -> float:
        """Left after `done` steps."""
        left, elapsed = self.steps - done, self.clock() - self.began
        decoding, coming = 0.0, 0.0
        if self.total and self.decoded:
            (with_new, waited), (without, usual) = self.waits[True], self.waits[False]
            decoding = max(0.0, waited - with_new * usual / max(1, without))
            touched = self.decoded / self.shares  # frames a step
            coming = self.missing * (1 - math.exp(-touched * left / self.total)) * decoding / self.decoded
        return (elapsed - decoding) / max(1, done - self.start) * left + coming
