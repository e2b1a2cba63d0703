"""Action and text following, measured on fakes that draw a peg on a flat picture: the truthful pass, every kind of blind one fails."""

import numpy as np
import pytest

from wfm_ar.evaluate import control
from wfm_ar.worlds.tabletop_scene import PEG_RANGE_X, PEG_RANGE_Y, REST_HEIGHT
from wfm_ar.worlds.tabletop_view import COLOURS, to_metres, to_pixels

SIZE, STEP, STEPS, EPISODES = 64, 4, 24, 8  # half size: the fakes draw some thousand frames
Y, X = np.mgrid[0:SIZE, 0:SIZE]


def draw(peg_px: np.ndarray) -> np.ndarray:
    """A flat picture with the white tip at [2] pixels, antialiased."""
    distance = np.hypot(X - peg_px[0], Y - peg_px[1])
    cover = np.clip(2.3 - distance, 0, 1)[..., None]
    return (90 + (255 - 90) * cover).round().astype(np.uint8).repeat(3, axis=2)


def clip_of(path_px: np.ndarray) -> np.ndarray:
    return np.stack([draw(place) for place in path_px])


@pytest.fixture(scope="module")
def episodes() -> dict[str, list]:
    """Smooth random actions within 2.5 cm a step and the peg's true path, of a table without contacts."""
    rng = np.random.default_rng(5)
    room = np.array([PEG_RANGE_X, PEG_RANGE_Y])
    actions, paths = [], []
    for _ in range(EPISODES):
        heading = rng.uniform(0, 2 * np.pi, STEPS // 8).repeat(8)
        actions.append(np.stack([np.cos(heading), np.sin(heading)], 1) * rng.uniform(0.005, 0.025))
        path = [rng.uniform(-0.12, 0.12, 2)]
        for action in actions[-1]:
            path.append(np.clip(path[-1] + action, -room, room))
        paths.append(np.stack(path))
    return {"actions": actions, "peg_xy": paths}


def measure(generate, episodes) -> dict:
    return control.measure_actions(generate, episodes["actions"], episodes["peg_xy"], size=SIZE, step=STEP)


def truthful(episodes):
    """Draws the peg where the actions take it, give or take a third of a pixel."""
    rng = np.random.default_rng(0)

    def generate(kind, actions):
        for path, row in zip(episodes["peg_xy"], actions, strict=True):
            px = control.commanded_path(path[0], row, size=SIZE)
            yield clip_of(px + rng.normal(0, 0.3, px.shape))

    return generate


def replaying(episodes):
    """Action-blind and clever: shows what really happened from that start, whatever it is told."""

    def generate(kind, actions):
        for path in episodes["peg_xy"]:
            yield clip_of(control.true_path(path, size=SIZE))

    return generate


def wandering(episodes):
    """Action-blind: a random walk."""
    rng = np.random.default_rng(1)

    def generate(kind, actions):
        for path, row in zip(episodes["peg_xy"], actions, strict=True):
            yield clip_of(control.commanded_path(path[0], rng.normal(0, 0.01, row.shape), size=SIZE))

    return generate


def frozen(episodes):
    """Action-blind: the last frame for ever."""

    def generate(kind, actions):
        for path in episodes["peg_xy"]:
            yield clip_of(control.true_path(path[:1].repeat(STEPS + 1, axis=0), size=SIZE))

    return generate


def vanishing(episodes):
    """Follows the actions, but the peg is gone from the seventh frame on."""

    def generate(kind, actions):
        for clip in truthful(episodes)(kind, actions):
            clip[6:] = 90
            yield clip

    return generate


def one_axis(episodes):
    """Follows dx and ignores dy."""

    def generate(kind, actions):
        return truthful(episodes)(kind, [row * (1.0, 0.0) for row in actions])

    return generate


def test_a_truthful_world_passes_the_gate(episodes):
    report = measure(truthful(episodes), episodes)
    assert control.action_gate(report) == []
    assert report["r_true"] > 0.98 and report["r_shuffled"] < 0.2
    assert report["pixel_error"] < 0.75  # 0.3 px of noise on both axes: mean length 0.38, and the centroid's rounding
    assert report["zero_drift_px"] < 0.75
    assert all(report["drives"][name]["found"] == 1.0 for name in control.DRIVES)
    assert min(report["drives"]["mirrored"]["r_xy"]) > 0.98
    assert len(report["pixel_error_by_frame"]) == STEPS + 1


@pytest.mark.parametrize(
    ("fake", "complaint"),
    [
        (wandering, "true actions: r"),
        (frozen, "true actions: r"),
        (replaying, "other episodes' actions: |r|"),
        (vanishing, "peg found in"),
        (one_axis, "true actions: r"),
    ],
)
def test_a_blind_world_fails_the_gate(episodes, fake, complaint):
    failures = control.action_gate(measure(fake(episodes), episodes))
    assert any(line.startswith(complaint) or complaint in line for line in failures), failures


def test_the_replaying_world_looks_perfect_under_true_actions_alone(episodes):
    report = measure(replaying(episodes), episodes)
    assert report["r_true"] > 0.98  # which is why the gate looks at the other drives
    assert report["r_shuffled"] > 0.9 and min(report["drives"]["mirrored"]["r_xy"]) < -0.5


def test_partners_are_a_shift_chosen_from_the_commands(episodes):
    drives = control.drive(episodes["actions"])
    first = next(i for i, a in enumerate(episodes["actions"]) if a is drives["shuffled"][0])
    assert 1 <= first < EPISODES
    for i, given in enumerate(drives["shuffled"]):
        assert given is episodes["actions"][(i + first) % EPISODES]
    np.testing.assert_array_equal(drives["mirrored"][3], -episodes["actions"][3])
    assert not drives["zero"][2].any()


def test_true_trials_are_not_rolled_out_again(episodes):
    calls = []

    def generate(kind, actions):
        calls.append(kind)
        return truthful(episodes)(kind, actions)

    given = zip(truthful(episodes)("true", episodes["actions"]), episodes["actions"], episodes["peg_xy"], strict=True)
    trials = [control.watch(clip, row, xy[0]) for clip, row, xy in given]
    report = control.measure_actions(generate, *episodes.values(), size=SIZE, step=STEP, true_trials=trials)
    assert calls == list(control.DRIVES[1:]) and report["r_true"] > 0.98


def test_the_commanded_path_stops_at_the_walls():
    path = control.commanded_path(np.array([0.2, 0.0]), np.array([[0.025, 0.0]] * 8), size=SIZE)
    end = to_metres(path[-1], size=SIZE)
    np.testing.assert_allclose(end, [PEG_RANGE_X, 0.0], atol=1e-9)
    np.testing.assert_allclose(path[-1], path[-2])


def test_a_peg_not_found_stays_where_it_was_last_seen():
    actions = np.full((4, 2), 0.01)
    frames = clip_of(control.commanded_path(np.zeros(2), actions, size=SIZE))
    frames[2] = 90
    trial = control.watch(frames, actions, np.zeros(2))
    assert trial.found == 0.75
    np.testing.assert_array_equal(trial.peg_px[2], trial.peg_px[1])


def table(colour: str, shape: str, place: tuple[float, float]) -> np.ndarray:
    """A flat picture with a coloured square where an object at `place` (metres) is seen."""
    picture = np.full((SIZE, SIZE, 3), 90, np.uint8)
    x, y = to_pixels(np.array([*place, REST_HEIGHT[shape]]), SIZE).round().astype(int)
    picture[y - 2 : y + 3, x - 2 : x + 3] = (np.array(COLOURS[colour]) * 255).astype(np.uint8)
    return picture


@pytest.mark.parametrize("colour", sorted(COLOURS))
@pytest.mark.parametrize(("direction", "step"), [("left", (-0.05, 0)), ("right", (0.05, 0)), ("away", (0, 0.05)), ("closer", (0, -0.05))])
def test_an_object_pushed_as_told_counts_and_one_pushed_back_does_not(colour, direction, step):
    push = control.Push(colour=colour, shape="ball", direction=direction)
    first, last = table(colour, "ball", (0.02, 0.01)), table(colour, "ball", (0.02 + step[0], 0.01 + step[1]))
    assert control.moved_along(first, last, push) == pytest.approx(0.05, abs=0.009)  # a pixel is 9 mm
    assert control.moved_along(first, last, push.opposite) == pytest.approx(-0.05, abs=0.009)


def test_text_following_counts_shares_and_missing_objects():
    push = control.Push(colour="red", shape="cube", direction="left")
    empty = np.full((SIZE, SIZE, 3), 90, np.uint8)
    assert control.moved_along(table("red", "cube", (0, 0)), empty, push) is None
    right = control.Push(colour="blue", shape="ball", direction="right")
    numbers = control.text_following([push, push, right, right], [0.031, None, 0.029, 0.2])
    assert numbers["followed"] == 0.5 and numbers["not_found"] == 1 and numbers["episodes"] == 4
    assert numbers["by_direction"]["left"] == {"episodes": 2, "followed": 0.5}
    assert numbers["by_direction"]["away"] == {"episodes": 0, "followed": None}
    assert numbers["mean_moved_m"] == pytest.approx((0.031 + 0.029 + 0.2) / 3)


def test_only_push_texts_are_parsed():
    assert control.parse_push("Push the red cube left ") == control.Push(colour="red", shape="cube", direction="left")
    assert control.parse_push("push the red cube left").text == "push the red cube left"
    for text in (None, "", "do nothing", "move at random", "push the red cube up", "push the pink cube left"):
        assert control.parse_push(text) is None
