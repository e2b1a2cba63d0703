import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from wfm_ar.errors import BadActions, BadConfig
from wfm_ar.worlds.tabletop import ACTIONS, TabletopWorld, play, record
from wfm_ar.worlds.tabletop_policy import DIRECTIONS, MAX_STEP, TASKS, draw_layout
from wfm_ar.worlds.tabletop_scene import HALF_X, HALF_Y, REST_HEIGHT, SHAPES
from wfm_ar.worlds.tabletop_view import COLOURS, TIP_HEIGHT, colour_mask, find_object, find_peg, to_metres, to_pixels

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs mujoco, the extra [sim]")


@pytest.fixture(scope="module")
def world():
    world = TabletopWorld()
    yield world
    world.close()


@pytest.fixture(scope="module")
def recordings(world):
    return [record(world, seed=5, index=i, num_frames=33) for i in range(14)]


@pytest.fixture(scope="module")
def plays(world):
    """Physics only, of 60 episodes: (layout, actions, state)."""
    return [play(world, seed=11, index=i, num_frames=33) for i in range(60)]


def layout_of(task, seed=0):
    return draw_layout(np.random.default_rng(seed), task)


def test_actions_are_steps():
    assert {channel.motion for channel in ACTIONS.channels} == {"delta"}


def test_a_recording_has_the_written_shape(recordings):
    for r in recordings:
        n = len(r.state["names"])
        assert r.frames.shape == (33, 128, 128, 3) and r.frames.dtype == np.uint8
        assert r.actions.shape == (32, 2) and r.actions.dtype == np.float32
        assert {k: v.shape for k, v in r.state.items()} == {
            "peg_xy": (33, 2), "object_xy": (33, n, 2), "peg_px": (33, 2), "object_px": (33, n, 2), "names": (n,)
        }  # fmt: skip
        ACTIONS.validate(r.actions, "actions")


def test_an_episode_depends_on_seed_and_index_alone(world, recordings):
    again = record(world, seed=5, index=7, num_frames=33)
    np.testing.assert_array_equal(again.frames, recordings[7].frames)
    np.testing.assert_array_equal(again.actions, recordings[7].actions)
    assert again.text == recordings[7].text
    assert (record(world, seed=6, index=7, num_frames=33).frames != again.frames).any()


def test_the_white_tip_is_where_the_state_says(recordings):
    errors = np.concatenate([np.linalg.norm(find_peg(r.frames) - r.state["peg_px"], axis=1) for r in recordings])
    assert errors.max() < 1.5 and errors.mean() < 0.3


def test_nothing_else_is_near_white(recordings):
    for r in recordings:
        y, x = np.mgrid[:128, :128]
        for frame, tip in zip(r.frames, r.state["peg_px"], strict=True):
            elsewhere = np.hypot(x - tip[0], y - tip[1]) > 8
            assert frame.min(axis=2)[elsewhere].max() < 165
            assert 30 < (frame.min(axis=2) > 230).sum() < 80


def test_objects_are_found_by_colour(recordings):
    errors = []
    for r in recordings:
        for k, name in enumerate(r.state["names"]):
            colour = name.split()[0]
            errors.append(np.linalg.norm(find_object(r.frames, colour) - r.state["object_px"][:, k], axis=1))
        absent = set(COLOURS) - {name.split()[0] for name in r.state["names"]}
        for colour in absent:
            assert colour_mask(r.frames[::8], colour).sum(axis=(1, 2)).max() < 8
    errors = np.concatenate(errors)
    assert not np.isnan(errors).any()
    assert np.quantile(errors, 0.95) < 2.0 and errors.max() < 6.0  # part of it may be hidden


def test_objects_are_big_enough(recordings):
    areas = [colour_mask(r.frames[:1], name.split()[0]).sum() for r in recordings for name in r.state["names"]]
    assert np.median(areas) > 150  # pixels, about 13 x 13
    assert min(areas) > 60


def test_the_background_is_one_picture(recordings):
    pictures = np.stack([r.frames[0] for r in recordings])
    background = np.median(pictures, axis=0)
    same = (np.abs(pictures - background).max(axis=3) == 0).mean(axis=(1, 2))
    assert same.min() > 0.88


def test_pixels_and_metres_are_inverse():
    points = np.random.default_rng(0).uniform(-0.25, 0.25, (50, 3))
    points[:, 2] = TIP_HEIGHT
    np.testing.assert_allclose(to_metres(to_pixels(points)), points[:, :2], atol=1e-9)
    np.testing.assert_allclose(to_metres(to_pixels(points, 64), size=64), points[:, :2], atol=1e-9)
    assert np.isnan(to_metres(np.array([np.nan, np.nan]))).all()


def test_right_is_right_and_away_is_up():
    origin, right, away = to_pixels(np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]]))
    assert right[0] - origin[0] > 15 and abs(right[1] - origin[1]) < 1e-9
    assert away[1] - origin[1] < -15 and abs(away[0] - origin[0]) < 1e-9


def test_finders_say_nan_where_nothing_is():
    empty = np.full((2, 128, 128, 3), 140, np.uint8)
    assert np.isnan(find_peg(empty)).all() and np.isnan(find_object(empty, "red")).all()
    empty[:, 5, 7:9] = 255  # two white pixels are no tip
    assert np.isnan(find_peg(empty)).all()


def test_the_tip_is_found_among_stray_white_pixels():
    frames = np.full((1, 128, 128, 3), 140, np.uint8)
    frames[0, 60:67, 80:87] = 255
    frames[0, [3, 90, 120], [5, 100, 30]] = 255
    np.testing.assert_allclose(find_peg(frames), [[83, 63]], atol=0.01)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_action_moves_the_peg_by_as_much(world, direction):
    layout = layout_of("nothing")
    world.reset(layout)
    world.data.qpos[:2] = 0.0
    for slot in range(len(layout.objects)):  # out of the way
        world.data.qpos[2 + 7 * slot : 4 + 7 * slot] = (0.2 * (-1) ** slot, 0.2)
    action = 0.015 * np.array(DIRECTIONS[direction])
    for _ in range(6):
        before = world.peg_xy
        world.step(action)
        np.testing.assert_allclose(world.peg_xy - before, action, atol=0.0008)


def test_the_peg_stops_at_the_wall(world):
    world.reset(layout_of("nothing"))
    for _ in range(40):
        world.step(np.array([MAX_STEP, 0.0]))
    assert HALF_X - 0.025 < world.peg_xy[0] < HALF_X


@pytest.mark.parametrize(
    ("action", "words"),
    [([0.03, 0.0], "<= 0.025 m"), ([0.02, 0.02], "<= 0.025 m"), ([np.nan, 0.0], "NaN"), ([0.0], "expected .N, 2"), (0.0, "expected .N, 2")],
)
def test_bad_actions_are_refused(world, action, words):
    world.reset(layout_of("nothing"))
    with pytest.raises(BadActions, match=words):
        world.step(np.array(action))


def test_tasks_have_their_shares_and_texts(plays):
    texts = [layout.text for layout, _, _ in plays]
    shares = {"push": 0, "random": 0, "nothing": 0}
    for layout, _, _ in plays:
        shares[layout.task] += 1 / len(plays)
        if layout.task == "push":
            assert layout.text == f"push the {layout.names[layout.target]} {layout.direction}"
    assert shares == pytest.approx(TASKS, abs=0.12)
    assert set(texts) >= {"move at random", "do nothing"}


def test_layouts_differ_in_colour_and_keep_apart(plays):
    for layout, _, _ in plays:
        colours = [colour for colour, _ in layout.objects]
        assert len(set(colours)) == len(colours) in (2, 3)
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(layout.object_xy) for b in layout.object_xy[:i]]
        assert min(gaps) > 0.10 and np.linalg.norm(layout.object_xy - layout.peg_xy, axis=1).min() > 0.055
    kinds = [kind for layout, _, _ in plays for kind in layout.objects]
    assert {shape for _, shape in kinds} == set(SHAPES) and {colour for colour, _ in kinds} == set(COLOURS)


def test_a_push_moves_the_named_object_in_the_named_direction(plays):
    moved, aside = [], []
    for layout, _, qpos in plays:
        if layout.task == "push":
            start = 2 + 7 * layout.target
            way = qpos[-1, start : start + 2] - qpos[0, start : start + 2]
            unit = np.array(DIRECTIONS[layout.direction])
            moved.append(way @ unit)
            aside.append(np.linalg.norm(way - way @ unit * unit))
    assert np.mean(np.array(moved) >= 0.05) >= 0.97 and np.mean(moved) > 0.10
    assert np.mean(aside) < 0.03


def test_doing_nothing_is_nothing(plays):
    for layout, actions, qpos in plays:
        if layout.task == "nothing":
            assert (actions == 0).all()
            assert np.abs(qpos[:, :2] - qpos[0, :2]).max() < 1e-4  # metres
            assert np.abs(qpos[-1, 2:4] - qpos[0, 2:4]).max() < 1e-3


def test_actions_are_slow_and_random_ones_touch_objects(plays):
    touched = []
    for layout, actions, qpos in plays:
        assert np.linalg.norm(actions, axis=1).max() <= MAX_STEP * 1.0001
        if layout.task == "random":
            starts = [2 + 7 * slot for slot in range(len(layout.objects))]
            touched.append(max(np.linalg.norm(qpos[-1, s : s + 2] - qpos[0, s : s + 2]) for s in starts) > 0.005)
    assert 0.2 < np.mean(touched) < 0.95


def test_strays_lean_on_walls_as_the_others_hardly_do(world, plays):
    strays = [play(world, seed=11, index=i, num_frames=33, task="stray") for i in range(30)]
    assert all(np.linalg.norm(actions, axis=1).max() <= MAX_STEP * 1.001 for _, actions, _ in strays)
    assert {layout.text for layout, _, _ in strays} == {"move at random"}
    shares = [np.mean([_leans(qpos, actions) for _, actions, qpos in some]) for some in (strays, plays)]
    assert shares[0] > 0.15 and shares[1] < 0.01, shares


def _leans(qpos: np.ndarray, actions: np.ndarray) -> float:
    """Share of the steps in which a wall takes more than 5 mm of what the peg is told."""
    return float((np.linalg.norm(qpos[:-1, :2] + actions - qpos[1:, :2], axis=1) > 0.005).mean())


def test_objects_stay_on_the_table_and_come_to_rest(plays):
    for layout, _, qpos in plays:
        for slot, (_, shape) in enumerate(layout.objects):
            x, y, z = qpos[:, 2 + 7 * slot : 5 + 7 * slot].T
            assert np.abs(x).max() < HALF_X and np.abs(y).max() < HALF_Y
            assert np.abs(z - REST_HEIGHT[shape]).max() < 0.03


def test_a_kicked_ball_stops_by_itself(world):
    layout = layout_of("nothing", seed=next(s for s in range(99) if layout_of("nothing", s).objects[0][1] == "ball"))
    world.reset(layout)
    world.data.qpos[2:4] = (-0.2, 0.0)
    world.data.qpos[9:11] = world.data.qpos[16:18] = (0.1, 0.2)
    world.data.qvel[2:5], world.data.qvel[5:8] = (0.25, 0, 0), (0, 0.25 / 0.033, 0)
    for _ in range(25):
        world.step(np.zeros(2))
    before = world.object_xyz[0].copy()
    world.step(np.zeros(2))
    assert 0.03 < before[0] + 0.2 < 0.4 and np.abs(world.object_xyz[0] - before).max() < 0.001


def test_too_large_a_picture_is_refused(world):
    world.reset(layout_of("nothing"))
    with pytest.raises(BadConfig, match="at most 128 pixels"):
        world.render(256)


def test_smaller_pictures_show_the_same(world):
    world.reset(layout_of("nothing"))
    small, large = world.render(64).astype(float), world.render(128).astype(float)
    assert small.shape == (64, 64, 3)
    assert np.abs(small - large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))).mean() < 2.0


def test_a_model_can_be_made_in_the_process_that_rendered():
    """Two LLVMs in one process, the renderer's and Triton's, which torch imports where weights are drawn."""
    render = "from wfm_ar.worlds.tabletop import TabletopWorld, record; record(TabletopWorld(), seed=0, index=0, num_frames=2)"
    subprocess.run([sys.executable, "-c", f"{render}; import torch._dynamo; import torch; torch.nn.Embedding(2, 2)"], check=True)
