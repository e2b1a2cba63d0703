"""Every crop by hand on pictures whose pixels say where they came from."""

import numpy as np
import pytest

from wfm_ar.data.video import resize_crop
from wfm_ar.errors import BadClip, BadConfig
from wfm_ar.framing import Box, area_of, framing, framing_line


def ramp(rows, columns):
    """A picture whose red is the row and whose green the column; blue is 200, so that black bars show."""
    picture = np.full((rows, columns, 3), 200, np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(rows)[:, None], np.arange(columns)
    return picture[None]


def test_centre_keeps_the_middle_and_says_what_is_lost():
    assert framing(480, 640, 128, 128, "centre")[:3] == (Box(0, 80, 480, 480), Box(0, 0, 128, 128), 0.25)
    tall = framing(720, 1280, 96, 128, "centre")
    assert tall.source == Box(0, 160, 720, 960) and tall.lost == pytest.approx(0.25) and tall.bars == 0 and tall.stretched == 1
    made = resize_crop(ramp(40, 80), 20, 20)[0]
    assert np.allclose(made[:, :, 1].mean(0), np.arange(20, 60).reshape(20, 2).mean(1), atol=0.51)


def test_fit_keeps_all_between_black_bars():
    wide = framing(40, 80, 32, 32, "fit")
    assert wide == (Box(0, 0, 40, 80), Box(8, 0, 16, 32), 0.0, 0.5, pytest.approx(1))
    made = resize_crop(ramp(40, 80), 32, 32, "fit")[0]
    assert (made[:8] == 0).all() and (made[24:] == 0).all() and (made[8:24, :, 2] == 200).all()
    assert made[8:24, :, 1].min() <= 1 and made[8:24, :, 1].max() >= 78  # both edges are there
    tall = resize_crop(ramp(80, 40), 32, 48, "fit")[0]
    assert (tall[:, :16] == 0).all() and (tall[:, 32:] == 0).all() and (tall[:, 16:32, 2] == 200).all()


def test_stretch_keeps_all_and_says_how_far():
    found = framing(40, 80, 32, 32, "stretch")
    assert found == (Box(0, 0, 40, 80), Box(0, 0, 32, 32), 0.0, 0.0, 2.0)
    made = resize_crop(ramp(40, 80), 20, 20, "stretch")[0]
    assert np.allclose(made[0, :, 1], np.arange(80).reshape(20, 4).mean(1), atol=0.51)
    assert np.allclose(made[:, 0, 0], np.arange(40).reshape(20, 2).mean(1), atol=0.51)


def test_an_area_is_cut_out_and_nothing_of_it_stretched():
    assert framing(480, 640, 64, 64, "100,20,300,200").source == Box(20, 150, 200, 200)
    made = resize_crop(ramp(60, 90), 20, 30, "10,5,30,20")[0]
    assert (made == ramp(60, 90)[0, 5:25, 10:40]).all()
    assert framing(60, 90, 20, 30, "10,5,30,20").lost == pytest.approx(1 - 600 / 5400)


def test_pictures_of_the_right_size_are_untouched():
    picture = ramp(20, 30)
    assert all(resize_crop(picture, 20, 30, crop) is picture for crop in ("centre", "fit", "stretch", "0,0,30,20"))


@pytest.mark.parametrize(
    ("crop", "line"),
    [
        ("center", "got 'center' .did you mean \"centre\".., expected centre, fit, stretch, or x,y,w,h in pixels"),
        ("1,2,3", "expected centre, fit, stretch, or x,y,w,h"),
        ("-1,0,10,10", "expected centre, fit, stretch, or x,y,w,h"),
        ("0,0,0,10", "got an area of 0x10 pixels, expected at least 1x1"),
        ("0,0,99999,10", "got an area of 99999x10 pixels"),
        ("0,0,1_0,10", "expected centre"),
        ("", "expected centre"),
    ],
)
def test_crops_that_say_nothing(crop, line):
    with pytest.raises(BadConfig, match=line) as caught:
        area_of(crop)
    assert "; fix: " in str(caught.value)


def test_an_area_beyond_the_picture():
    with pytest.raises(BadClip, match="clip.mp4: got pictures of 640x480 pixels, expected ones that hold crop=200,0,480,480; fix"):
        framing(480, 640, 64, 64, "200,0,480,480", "clip.mp4")


def test_the_line_names_width_before_height():
    line = framing_line([(480, 640), (480, 640), (128, 128)], 96, 128, "centre")
    assert line == "pictures become 128x96 (crop=centre); 640x480: nothing is lost; 128x128: 25% of the picture is cut off"
    assert framing_line([(40, 80)], 32, 32, "fit").endswith("80x40: 50% of 32x32 is black")
    assert framing_line([(n, n) for n in range(32, 39)], 32, 32, "centre").endswith("35x35: nothing is lost; and 3 more sizes")
    assert framing_line([(40, 80)], 32, 32, "stretch").endswith("80x40: stretched by 2.00")
