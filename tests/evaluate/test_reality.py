"""Drift and motion: numbers of pictures that freeze, fade, blur or flicker, beside those of the truth."""

import numpy as np
import pytest

from wfm_ar.evaluate.reality import codes_apart, moving_share, reality_numbers


def walk(frames: int = 16) -> np.ndarray:
    video = np.full((frames, 32, 48, 3), 80, np.uint8)
    video[:, ::4] = 120
    for t in range(frames):
        video[t, 8:20, 2 * t : 2 * t + 10] = 240
    return video


TOKENS = [np.arange(64).reshape(16, 2, 2) % 7 for _ in range(4)]


def of(made: np.ndarray, tokens=TOKENS) -> dict:
    return reality_numbers([made] * 4, [walk()] * 4, tokens, TOKENS)


def test_the_truth_itself_has_no_drift():
    assert of(walk()) == {
        "clips": 4,
        "colour": 0,
        "sharpness": 1,
        "motion": 1,
        "moving": pytest.approx(moving_share(walk())),
        "moving_true": pytest.approx(moving_share(walk())),
        "codes_apart": 0,
        "codes_apart_true": 0,
    }


def test_what_is_wrong_has_its_own_number():
    assert of(walk()[:1].repeat(16, 0))["motion"] == 0  # frozen
    faded = walk().astype(int) + 40 * np.arange(16).reshape(-1, 1, 1, 1) // 15
    assert 30 < of(faded.clip(0, 255).astype(np.uint8))["colour"] <= 40
    blurred = walk().astype(float)
    for _ in range(6):
        blurred[12:] = (blurred[12:] + np.roll(blurred[12:], 1, 1) + np.roll(blurred[12:], 1, 2)) / 3
    assert of(blurred.astype(np.uint8))["sharpness"] < 0.4
    noisy = np.random.default_rng(0).integers(0, 256, (16, 32, 48, 3), dtype=np.uint8)
    assert of(noisy)["motion"] > 5
    assert of(walk(), [tokens + 7 for tokens in TOKENS])["codes_apart"] == 1


def test_clips_that_never_move_say_nothing_of_motion():
    still = walk()[:1].repeat(16, 0)
    assert reality_numbers([still], [still], TOKENS[:1], TOKENS[:1])["motion"] is None


def test_codes_apart_is_the_share_that_differs():
    assert codes_apart([np.array([0, 0, 1, 1])], [np.array([0, 1, 1, 1])]) == pytest.approx(0.25)
