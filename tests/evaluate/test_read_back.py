"""Read-back: r of what was commanded and what is seen, its ceiling, and moving steps apart from still ones."""

import numpy as np
import pytest

from wfm_ar.evaluate.read_back import moving_steps, read_back_numbers


def test_followed_ignored_and_unreadable_channels():
    rng = np.random.default_rng(0)
    told = [rng.uniform(-1, 1, (20, 3)) for _ in range(4)]
    noise = [0.2 * rng.standard_normal((20, 3)) for _ in range(4)]
    copies = [one + less for one, less in zip(told, noise, strict=True)]
    read = [np.stack([one[:, 0], rng.uniform(-1, 1, 20), one[:, 2]], 1) for one in copies]
    for one in copies:
        one[:, 2] = rng.uniform(-1, 1, 20)
    moving = [np.ones(20, bool)] * 4
    numbers = read_back_numbers(("dx", "dy", "force"), told, read, copies, moving, (told[1:] + told[:1], read))
    followed, ignored, unreadable = (numbers["channels"][name] for name in ("dx", "dy", "force"))
    assert followed["r"] > 0.9 and followed["ceiling"] > 0.9 and abs(followed["r_shuffled"]) < 0.3
    assert abs(ignored["r"]) < 0.3 < 0.9 < ignored["ceiling"] and abs(unreadable["ceiling"]) < 0.3
    assert (numbers["steps"], numbers["moving_steps"], numbers["clips"]) == (80, 80, 4)


def test_still_steps_look_consistent_and_are_scored_apart():
    told = [np.concatenate([np.zeros((30, 1)), np.linspace(-1, 1, 10)[:, None]])]
    read = [np.concatenate([np.zeros((30, 1)), np.tile([[1.0], [-1.0]], (5, 1))])]  # where it moves it is wrong
    moving = [np.arange(40) >= 30]
    row = read_back_numbers(("dx",), told, read, told, moving)["channels"]["dx"]
    assert row["ceiling"] == row["ceiling_moving"] == pytest.approx(1) and abs(row["r_moving"]) < 0.25 and "r_shuffled" not in row
    nothing = read_back_numbers(("dx",), told, read, told, [np.zeros(40, bool)])
    assert nothing["channels"]["dx"]["r_moving"] == 0 and nothing["moving_steps"] == 0


def test_moving_steps_are_those_of_the_latents():
    clip = np.zeros((9, 32, 32, 3), np.uint8)
    clip[5:, 4:12, 4:12] = 200
    assert moving_steps(clip, 1).tolist() == [False] * 4 + [True] + [False] * 3
    assert moving_steps(clip, 4).tolist() == [False, True]
