"""What a run is fitted to: times as people write them, pictures of the data's shape, steps that fill a budget and no more."""

import pytest

from wfm_ar.errors import BadConfig
from wfm_ar.train import budget as fitting
from wfm_ar.train.budget import SHARES, SIZES, VALIDATIONS

STEP = {"video_tokenizer": 0.5, "frame_predictor": 0.6, "world_model": 0.9, "diffusion_decoder": 0.3, "inverse_dynamics": 0.2}
NO_LOOKS = dict.fromkeys(STEP, 0.0)
PLENTY = dict.fromkeys(STEP, 10**9)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1.5h", 5400), ("1h30m", 5400), ("45 min", 2700), ("none", None)]
)
def test_times_as_people_write_them(text, seconds):
    assert fitting.parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "fast", "30s", "-2h", "2h and more", "9999d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(BadConfig, match="expected a time of a minute or more"):
        fitting.parse_budget(text)


@pytest.mark.parametrize(
    ("source", "pixels"),
    [((480, 640), 128 * 128), ((720, 1280), 96 * 96), ((640, 480), 64 * 64), ((48, 64), 128 * 128), ((256, 256), 128 * 128)],
)
def test_pictures_keep_the_shape_of_the_data_and_never_grow(source, pixels):
    height, width = fitting.picture_size(*source, pixels)
    assert height % 8 == width % 8 == 0 and height <= source[0] and width <= source[1]
    assert width / height == pytest.approx(source[1] / source[0], rel=0.08)
    assert 0.7 * min(pixels, source[0] * source[1]) <= height * width <= 1.45 * pixels
    assert fitting.picture_size(256, 256, 128 * 128) == (128, 128) and fitting.picture_size(48, 64, 128 * 128) == (48, 64)


def test_a_source_as_narrow_as_a_strip_has_a_size_too():
    height, width = fitting.picture_size(16, 4000, 128 * 128)
    assert (height % 8, width % 8) == (0, 0) and height <= 16 and width <= 4000


@pytest.mark.parametrize(
    ("fps", "frames", "rate"), [(30, 300, 10), (15, 150, 7.5), (10, 100, None), (5, 50, None), (50, 30, 50 / 3), (30, 10, None)]
)
def test_fast_clips_are_thinned_but_for_short_ones(fps, frames, rate):
    assert fitting.thinned_rate(fps, frames) == rate


def test_steps_fill_the_budget_in_their_shares():
    steps = fitting.fit_steps(3600, STEP, PLENTY, NO_LOOKS)
    taken = {name: steps[name] * STEP[name] for name in STEP}
    assert sum(taken.values()) == pytest.approx(3600, rel=0.01)
    assert {name: taken[name] / 3600 for name in STEP} == pytest.approx(SHARES, abs=0.002)
    looks = dict.fromkeys(STEP, 60.0)
    looking = fitting.fit_steps(3600, STEP, PLENTY, looks)
    spent = sum(looking[name] * STEP[name] + looks[name] for name in STEP)
    assert spent == pytest.approx(3600, rel=0.01) and looking["world_model"] < steps["world_model"]


def test_validations_take_no_more_than_their_share():
    assert fitting.validations(None, STEP) == dict.fromkeys(STEP, VALIDATIONS) == fitting.validations(1e6, STEP)
    seconds, each = 600, dict.fromkeys(STEP, 10.0)
    often = fitting.validations(seconds, each)
    assert often["world_model"] == int(0.15 * 600 * SHARES["world_model"] / 10) == 5 and often["video_tokenizer"] == 1


def test_what_one_stage_cannot_use_goes_to_the_others():
    wanted = PLENTY | {"video_tokenizer": 100}
    steps = fitting.fit_steps(3600, STEP, wanted, NO_LOOKS)
    assert steps["video_tokenizer"] == 100 and sum(steps[name] * STEP[name] for name in STEP) == pytest.approx(3600, rel=0.01)
    assert fitting.fit_steps(1e9, STEP, fitting.wanted_steps(30_000), NO_LOOKS) == fitting.wanted_steps(30_000)
    assert fitting.fit_steps(None, STEP, fitting.wanted_steps(10), NO_LOOKS) == fitting.LEAST_STEPS
    assert min(fitting.fit_steps(0.1, STEP, PLENTY, NO_LOOKS).values()) == 1
    without = {name: STEP[name] for name in STEP if name != "frame_predictor"}
    assert set(fitting.fit_steps(3600, without, PLENTY, NO_LOOKS)) == set(without)


def test_steps_follow_the_data():
    few, recipe, many = (fitting.wanted_steps(frames)["world_model"] for frames in (3_000, 30_000, 10**9))
    assert few < recipe == fitting.RECIPE["world_model"] < many == 4 * recipe


def test_clips_are_left_out_where_encoding_them_would_take_the_budget():
    assert fitting.usable_clips(1000, 100_000, 0.01, 7200) == 1000
    assert fitting.usable_clips(1000, 100_000, 0.1, 7200) == 216  # a tenth of a second a frame, and 30 % of two hours for it
    assert fitting.usable_clips(1000, 100_000, 0.1, None) == 1000 and fitting.usable_clips(5, 10**9, 1.0, 60) == 1


def test_a_sensible_budget_gives_every_stage_room():
    wanted, looks = fitting.wanted_steps(30_000), dict.fromkeys(STEP, 60.0)
    seconds = fitting.sensible_budget(STEP, wanted, looks, once_s=600)
    steps = fitting.fit_steps(seconds * (1 - fitting.SPARE) - 600, STEP, wanted, looks)
    assert steps["world_model"] >= fitting.ENOUGH * wanted["world_model"]
    spent = sum(fitting.SENSIBLE * wanted[name] * STEP[name] + looks[name] for name in STEP) + 600
    assert seconds == pytest.approx(spent / (1 - fitting.SPARE))


def test_a_few_held_out_clips_end_no_stage():
    assert [fitting.patience(clips) for clips in (0, 3, 4, 100)] == [0, 0, 2, 2]


def test_schedules_suit_the_number_of_steps():
    short, long = (fitting.schedule("world_model", steps, ema=0.998, warmup=200) for steps in (50, 8000))
    own = "stages.world_model"
    assert (short[f"{own}.optimizer.warmup_steps"], long[f"{own}.optimizer.warmup_steps"]) == (5, 200)
    assert short[f"{own}.optimizer.ema"] == 0.8 and long[f"{own}.optimizer.ema"] == 0.998
    assert -(-50 // short[f"{own}.val_every"]) <= VALIDATIONS + 1 and long[f"{own}.checkpoint_every"] == 250


def test_larger_budgets_try_larger_sizes():
    cpu = [fitting.first_size(seconds, cuda=False) for seconds in (60, 3600, 8 * 3600, None)]
    assert cpu == [0, 1, 2, 2] and [fitting.first_size(seconds, cuda=True) for seconds in (60, 3600, None)] == [1, 3, 3]
    assert [size.pixels for size in SIZES] == sorted(size.pixels for size in SIZES)
