"""Contact sheets: every pixel of a frame in its place, and labels that can be read."""

import numpy as np
import pytest

from wfm_ar.data.video import read_image
from wfm_ar.errors import OutputExists
from wfm_ar.verbs.contact_sheet import GAP, LINE, write_contact_sheet


def clip(seed: int, frames: int, height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_frames_stand_pixel_for_pixel_in_their_columns(tmp_path):
    long, short = clip(0, 9), clip(1, 4, height=20)
    write_contact_sheet(tmp_path / "a.png", [("long", long), ("short", short)], title="two clips", columns=3)
    sheet = read_image(tmp_path / "a.png")[0]
    assert sheet.shape == (2 * LINE + 2 * (LINE + 24 + GAP) + 3 * GAP, 6 * GAP + 3 * 40 + 2 * GAP, 3)

    def at(row: int, column: int, height: int) -> np.ndarray:
        top, left = 2 * LINE + row * (LINE + 24 + GAP) + LINE, 3 * GAP + column * (40 + GAP)
        return sheet[top : top + height, left : left + 40]

    for column, number in enumerate((0, 4, 8)):
        assert (at(0, column, 24) == long[number]).all()
    assert (at(1, 0, 20) == short[0]).all()
    assert (at(1, 1, 24) == 255).all() and (at(1, 2, 24) == 255).all(), "the short clip has no frames 4 and 8"
    with pytest.raises(OutputExists):
        write_contact_sheet(tmp_path / "a.png", [("long", long)])


@pytest.mark.parametrize("words", ["push the red cube left", "толкни красный куб", "größer, a < b & $x^2$", "two\nlines\tof text"])
def test_labels_of_several_scripts_leave_ink_of_their_own(tmp_path, words):
    """In the row of the label alone: other words give other pixels, and no letter is an empty box."""
    bands = []
    for i, label in enumerate((words, words[:-1], "\ue000" * len(words))):  # the last: letters that no font has
        write_contact_sheet(tmp_path / f"{i}.png", [(label, clip(0, 9, width=60))])
        bands.append(read_image(tmp_path / f"{i}.png")[0][LINE : 2 * LINE])
    assert all((band < 128).sum() > 50 for band in bands)
    assert (bands[0] != bands[1]).any() and (bands[0] != bands[2]).any()
