"""The time left is right while frames are still decoded for the first time, against a run that is simulated to its end."""

import random

import pytest

from wfm_ar.train.time_left import TimeLeft

CLIPS, CLIP = 100, 40  # of frames


class Run:
    """Each step takes `compute` seconds and waits `usual` for its batch; a frame that was never touched costs `frame` more."""

    def __init__(self, steps, *, compute=0.05, usual=0.0, frame=0.02, held=0, start=0):
        self.now, self.steps, self.cost = 0.0, steps, (compute, usual, frame)
        self.seen, self.draws = set(range(held)), random.Random(0)
        self.left = TimeLeft(start, steps, lambda: ((CLIPS - len(self.seen)) * CLIP, CLIPS * CLIP), lambda: self.now)
        self.told = {}  # after so many steps: what was promised, and when
        for done in range(start + 1, steps + 1):
            clip = self.draws.randrange(CLIPS)
            compute, usual, frame = self.cost
            waited = usual + (0 if clip in self.seen else CLIP * frame)
            self.seen.add(clip)
            self.now += waited
            self.left.step(waited)
            self.now += compute
            self.told[done] = self.left.seconds(done), self.now

    def errors(self, *after):
        """promised / true time left, after these steps."""
        return [self.told[done][0] / (self.now - self.told[done][1]) for done in after]


@pytest.mark.parametrize("steps", [200, 2000, 20000])
def test_the_first_pass_is_part_of_it_and_no_measure_of_the_rest(steps):
    run = Run(steps)
    assert run.errors(10, 20, 50) == pytest.approx([1] * 3, rel=0.15)
    promised, now = run.told[20]
    by_the_mean = now / 20 * (steps - 20)
    assert by_the_mean > 1.5 * promised  # what the mean over all steps would say


def test_what_every_step_waits_for_is_not_decoding():
    """And is known as soon as there are steps that decode nothing."""
    run = Run(5000, compute=0.01, usual=0.2)
    assert run.errors(60, 200, 1000) == pytest.approx([1] * 3, rel=0.1)


def test_a_run_that_goes_on_counts_what_is_there():
    assert Run(4000, held=90, start=1000).errors(1100, 1500, 3000) == pytest.approx([1] * 3, rel=0.1)
    whole = Run(300, held=CLIPS)
    assert whole.errors(1, 100) == pytest.approx([1, 1])


def test_decoding_beside_the_steps_costs_nothing():
    assert Run(1000, frame=0.0).errors(1, 50) == pytest.approx([1, 1])


def test_without_frames_or_room_it_is_the_mean():
    now = [0.0]
    plain = TimeLeft(5, 25, clock=lambda: now[0])
    answers = iter([(100, 100), (60, 100), None])
    crowded = TimeLeft(5, 25, lambda: next(answers), lambda: now[0])
    for _ in range(5):
        for one in (plain, crowded):
            one.step(waited=1.5)
        now[0] += 2
    assert plain.seconds(10) == crowded.seconds(10) == 2 * 15
