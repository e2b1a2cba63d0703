"""The tree of steps within its bound of memory."""

import pytest

from wfm_ar.errors import BadPrompt
from wfm_ar.simulate.play.timeline import LEAST_STATES, NEWEST, Timeline


class FakeMark:
    """A mark whose decoder state has a size."""

    def __init__(self, state: int, decoder: object = "state") -> None:
        self.nbytes, self.decoder = state if decoder else 0, decoder

    def thinned(self) -> "FakeMark":
        return FakeMark(0, None)


def grown(steps: int, *, most: int, picture: int = 1000, state: int = 0, branch_at: int | None = None) -> Timeline:
    timeline, parent = Timeline(most), None
    for step in range(steps):
        about = dict(step=step, frame=step, count=1, actions=None, acted="given", text=None)
        node = timeline.add(parent, pictures=[bytes(picture)], mark=FakeMark(state), **about)
        parent = node.number if branch_at is None or step != 2 * branch_at else branch_at
    return timeline


def test_pictures_stay_within_the_bound_and_the_oldest_go_first():
    timeline = grown(3000, most=4 << 20)
    assert timeline.nbytes <= 4 << 20 and timeline.forgotten > 2000
    there = [number for number, node in timeline.nodes.items() if node.mark is not None]
    assert there == list(range(there[0], 3000)), "the newest are all there"
    timeline.mark_of(there[0])
    with pytest.raises(BadPrompt, match="one of this session"):
        timeline.mark_of(0)
    assert len(timeline.path(2999)) == len(timeline.nodes), "what is forgotten and leads nowhere else is gone"


def test_decoder_states_are_spread_evenly_over_the_past():
    most, state = 8 << 20, 100_000
    timeline = grown(600, most=most, state=state)
    held = [number for number, node in timeline.nodes.items() if node.mark.decoder]
    assert LEAST_STATES <= len(held) <= most // 2 // state and held[0] == 0 and held[-NEWEST:] == list(range(600 - NEWEST, 600))
    gaps = [b - a for a, b in zip(held, held[1:], strict=False)]
    assert max(gaps) <= 4 * 600 / len(held), gaps
    for number in range(600):
        mark, before = timeline.mark_of(number)
        assert (before is None) == (mark.decoder is not None)


def test_a_branch_comes_back_to_its_own_past():
    timeline = grown(40, most=64 << 20, branch_at=8)
    assert [node.number for node in timeline.path(30)] == [*range(9), *range(17, 31)]
    assert [node.number for node in timeline.path(30, since=20)] == list(range(20, 31))
    assert timeline.nodes[8].children == [9, 17]


def test_what_is_recorded_is_not_forgotten():
    timeline, parent = Timeline(1 << 20), None
    for step in range(1000):
        about = dict(step=step, frame=step, count=1, actions=None, acted="given", text=None)
        parent = timeline.add(parent, pictures=[bytes(1000)], mark=FakeMark(0), **about).number
        if step == 50:
            timeline.pin({10, 11, 12})
    assert all(timeline.nodes[number].pictures for number in (10, 11, 12)) and not timeline.nodes[13].pictures


def test_going_back_brings_the_decoder_state_back():
    timeline = grown(600, most=8 << 20, state=100_000)
    thin = next(number for number, node in timeline.nodes.items() if node.mark.decoder is None)
    timeline.state_again(thin, FakeMark(100_000))
    assert timeline.mark_of(thin) == (timeline.nodes[thin].mark, None) and timeline.nbytes <= 8 << 20


def test_no_memory_keeps_what_is_newest_all_the_same():
    timeline = grown(100, most=1, picture=5000, state=10)
    assert all(timeline.nodes[number].mark is not None for number in range(100 - NEWEST, 100))
