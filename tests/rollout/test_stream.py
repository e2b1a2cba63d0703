"""Points of a stream to come back to, in worlds of several frames a latent and of single ones."""

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.rollout import engine
from wfm_ar.rollout.stream import Mark, WorldStream, step_together
from wfm_ar.rollout.world import World

TEXT, OTHER = tiny.TEXTS[:2]


@pytest.fixture(scope="module", params=[False, True], ids=["two frames a latent", "one frame a latent"])
def world(request: pytest.FixtureRequest) -> World:
    return World(tiny.make_parts(lookahead=request.param), name="tiny")


def drive(world: World, stream: WorldStream, steps: int, seed: int) -> tuple[list[np.ndarray], list[Mark]]:
    """Frames of each step, and a mark behind each."""
    actions = tiny.make_actions(steps * world.rate, seed).reshape(steps, world.rate, -1)
    frames, marks = [], []
    for step in actions:
        frames.append(stream.step(step))
        marks.append(stream.mark())
    return frames, marks


@pytest.mark.parametrize("refine", [False, True])
def test_a_resumed_stream_goes_on_as_it_did(world: World, refine: bool) -> None:
    """Nine steps are beyond the trained length of four latents: the context has moved on twice."""
    stream = world.start(tiny.make_video(1), TEXT, seed=3, refine=refine)
    first = stream.mark()
    frames, marks = drive(world, stream, 9, seed=1)
    actions = tiny.make_actions(9 * world.rate, 1).reshape(9, world.rate, -1)
    for at in (0, 4, 7):
        back = stream.resume(marks[at])
        assert np.array_equal(back.tokens, stream.tokens[: at + 2])
        assert np.array_equal(back.step(actions[at + 1]), frames[at + 1])
        thin = stream.resume(marks[at].thinned(), first if at < 7 else marks[4])
        assert np.array_equal(thin.step(actions[at + 1]), frames[at + 1])
    assert len(stream.tokens) == 10, "the stream itself is where it was"


def test_a_mark_is_small_and_says_what_it_holds(world: World) -> None:
    stream = world.start(tiny.make_video(1), TEXT, seed=3)
    stream.step(tiny.make_actions(world.rate))
    mark = stream.mark()
    assert mark.latents == 2 and (mark.nbytes > 0) == (world.rate > 1)  # single frames are decoded without a memory
    assert mark.thinned().nbytes == 0
    with pytest.raises(AssertionError, match="no decoder state"):
        stream.resume(mark.thinned())


def test_a_branch_under_another_text_seed_or_settings(world: World) -> None:
    stream = world.start(tiny.make_video(1), TEXT, seed=3)
    _, marks = drive(world, stream, 2, seed=1)
    actions = tiny.make_actions(8 * world.rate, 2).reshape(8, world.rate, -1)

    def ahead(**how) -> np.ndarray:
        branch = world.resume(stream, marks[-1], **how)
        for step in actions:
            branch.step(step)
        return branch.tokens

    same = ahead()
    assert np.array_equal(ahead(text=TEXT, seed=3, temperature=1.0), same)
    for how in ({"text": OTHER}, {"text": None}, {"seed": 4}, {"temperature": 0.0}, {"action_guidance": 2.0}):
        assert not np.array_equal(ahead(**how), same), how
    for how in ({"seed": -1}, {"temperature": -1.0}):
        with pytest.raises((BadPrompt, BadConfig)):
            world.resume(stream, marks[-1], **how)


@pytest.mark.parametrize("fewest", [2, None], ids=["in one pass", "as is quicker"])
def test_streams_that_step_together_show_what_each_would_alone(world: World, monkeypatch: pytest.MonkeyPatch, fewest: int | None) -> None:
    """Driven, imagined and colder ones, of several texts and lengths, one without a picture, over the trained length and back again."""
    if fewest is not None:
        monkeypatch.setattr(engine.Batch, "fewest_together", fewest)
    starts = [
        dict(video=tiny.make_video(1), text=TEXT, seed=1),
        dict(video=tiny.make_video(1), text=OTHER, seed=2),
        dict(video=tiny.make_video(1 + world.rate), seed=3),
        dict(seed=4),
        dict(video=tiny.make_video(1), text=TEXT, seed=5, temperature=0.5),
    ]
    together, alone = ([world.start(**start) for start in starts] for _ in range(2))
    actions = tiny.make_actions(8 * world.rate, 7).reshape(8, world.rate, -1)
    for step in range(8):
        given = [actions[step], actions[step], None if step % 3 else actions[step], None, actions[step]]
        members = [i for i in range(5) if (i + step) % 4]  # now these, now those
        shown = step_together([together[i] for i in members], [given[i] for i in members])
        for i, frames in zip(members, shown, strict=True):
            assert np.array_equal(frames, alone[i].step(given[i])), (step, i)
    assert [len(one.tokens) for one in together] == [len(one.tokens) for one in alone]
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(together, alone, strict=True))
