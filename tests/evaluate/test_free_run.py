"""Long runs: a world that keeps its things scores 1 to the end; one that loses, recolours or conjures them fails by name and minute."""

import numpy as np
import pytest
from tabletop_scenes import NAMES, draw

from wfm_ar.evaluate.free_run import Watcher, free_run_summary

PLACES, PEG = np.array([[-0.1, -0.1], [0.1, 0.0], [0.0, 0.15]]), np.array([-0.2, 0.2])
GOOD = draw(NAMES, PLACES, PEG)


def watch(later, seconds: int = 150, from_second: int = 61) -> Watcher:
    """GOOD for a minute, then `later`."""
    watcher = Watcher(names=NAMES, first=GOOD, copy=GOOD)
    for second in range(2, 1 + seconds, 2):
        watcher.look(later if second >= from_second else GOOD, second)
    return watcher


def means(report, name) -> list[float]:
    return [row[0] for row in report["by_minute"][name]]


@pytest.mark.parametrize(
    ("later", "changed"),
    [
        (GOOD, {}),
        (draw(NAMES[1:], PLACES[1:], PEG), {"there": 2 / 3}),
        (draw(("yellow cube", *NAMES[1:]), PLACES, PEG), {"there": 2 / 3, "appeared": 1}),
        (draw(("red ball", *NAMES[1:]), PLACES, PEG), {"own_shape": 2 / 3}),
        (draw((*NAMES, "red cube"), [*PLACES, (0.15, -0.15)], PEG), {"in_pieces": 1 / 3}),
        (draw((*NAMES, "orange ball"), [*PLACES, (0.15, -0.15)], PEG), {"appeared": 1}),
        (draw(NAMES, PLACES, None), {"peg_found": 0}),
        (np.clip(GOOD.astype(int) + 20, 0, 255).astype(np.uint8), {"background_drift": 20}),
    ],
    ids=["good", "lost", "recoloured", "reshaped", "doubled", "conjured", "no peg", "drifted"],
)
def test_each_minute_says_what_went_wrong(later, changed):
    report = free_run_summary([watch(later)] * 2)
    perfect = {"there": 1, "in_pieces": 0, "own_shape": 1, "appeared": 0, "background_drift": 0, "peg_found": 1}
    assert report["runs"] == 2 and report["seconds"] == 150
    for name, value in perfect.items():
        if name == "own_shape" and "in_pieces" in changed:
            continue  # two cubes are of no shape
        values = means(report, name)
        assert values[0] == value and values[1:] == [pytest.approx(changed.get(name, value), abs=1.0 * (name == "background_drift"))] * 2
    assert report["there_at_the_end"] == pytest.approx(changed.get("there", 1))


def test_what_is_hidden_for_a_moment_at_the_end_is_still_there():
    assert free_run_summary([watch(draw(NAMES[1:], PLACES[1:], PEG), seconds=60, from_second=57)])["there_at_the_end"] == 1.0
    assert free_run_summary([watch(draw(NAMES[1:], PLACES[1:], PEG), seconds=60, from_second=53)])["there_at_the_end"] == pytest.approx(
        2 / 3
    )
