"""A session without a server: which `act` a picture answers."""

import numpy as np
import pytest

pytest.importorskip("aiohttp")

from play_client import tiny_world

from wfm_ar.simulate.play.protocol import unpacked
from wfm_ar.simulate.play.session import Session


def test_a_key_that_is_pressed_while_a_step_is_made_is_answered_by_the_next_one():
    told, world = [], tiny_world()
    session = Session(world, None, None, told.append, speed=1.0, most_bytes=1 << 24)
    session.stream = world.start(text="push the red cube left", seed=1)
    session.node = session._add(None, session.stream.step(), None, "absent", session.stream)
    rest, left = np.zeros(2).tolist(), [-0.02, 0.0]
    for before, during in ((left, rest), (left, left)):
        session.act(session.seq + 1, before)
        known = session.seq
        ((stream, actions),) = session.next_steps(0.0)
        session.act(session.seq + 1, during)
        session.stepped(stream, actions, stream.step(actions), 0.01)
        shown = [unpacked(one) for one in told if isinstance(one, bytes)]
        assert {one.seq for one in shown} == {known} and known < session.seq and shown[0].waited_ms >= 0
        told.clear()
