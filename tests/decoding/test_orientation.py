"""Pictures are shown as they were taken: turned, mirrored and stretched as display matrices, EXIF and aspect ratios say."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_clip import numbers, picture, write_numbered

from wfm_ar.data import open_episodes, read_image, read_video, video_info, write_image, write_video
from wfm_ar.data.check import check_data, summarize
from wfm_ar.data.video import decode_image
from wfm_ar.decoding.limits import Refused
from wfm_ar.decoding.orientation import of_exif, of_matrix, shown_size
from wfm_ar.decoding.pool import upright
from wfm_ar.errors import BadClip
from wfm_ar.verbs.contact_sheet import sample_frames

ONE = 1 << 16
MATRICES = {  # orientation -> (a, b, c, d)
    1: (ONE, 0, 0, ONE),
    2: (-ONE, 0, 0, ONE),
    3: (-ONE, 0, 0, -ONE),
    4: (ONE, 0, 0, -ONE),
    5: (0, ONE, ONE, 0),
    6: (0, ONE, -ONE, 0),  # a phone held upright: 90 degrees clockwise
    7: (0, -ONE, -ONE, 0),
    8: (0, -ONE, ONE, 0),
}
CORNERS = {  # orientation -> where the corner lies that is stored at the top left, in what is shown
    1: "top left",
    2: "top right",
    3: "bottom right",
    4: "bottom left",
    5: "top left",
    6: "top right",
    7: "bottom right",
    8: "bottom left",
}
GREEN, RED, BLUE = (30, 220, 30), (220, 30, 30), (30, 30, 220)


def stored() -> np.ndarray:
    """uint8 [64, 96, 3]: red above blue, green at the top left."""
    image = np.empty((64, 96, 3), np.uint8)
    image[:32], image[32:], image[:32, :24] = RED, BLUE, GREEN
    return image


def with_matrix(path, numbers_abcd) -> None:
    """The display matrix of an MP4 replaced."""
    a, b, c, d = numbers_abcd
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def with_exif(orientation: int, jpeg: bool, order: str = "<") -> bytes:
    """`stored()` as a picture whose EXIF says how to turn it."""
    encoder = av.CodecContext.create("mjpeg" if jpeg else "png", "w")
    encoder.height, encoder.width, encoder.time_base = 64, 96, Fraction(1, 25)
    encoder.pix_fmt, encoder.options = ("yuvj444p", {"qmin": "1", "qmax": "1"}) if jpeg else ("rgb24", {})
    frame = av.VideoFrame.from_ndarray(stored(), format="rgb24").reformat(format=encoder.pix_fmt)
    content = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    field = struct.pack(order + "HHIHH", 0x112, 3, 1, orientation, 0)
    exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1) + field + bytes(4)
    if jpeg:
        return content[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(exif)) + b"Exif\0\0" + exif + content[2:]
    return content[:33] + struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", 0) + content[33:]


def corner_of(frame: np.ndarray) -> str:
    """Where it is green."""
    green = (frame[..., 1] > 150) & (frame[..., 0] < 100)
    y, x = (float(places.mean()) for places in np.nonzero(green))
    return f"{'top' if y < frame.shape[0] / 2 else 'bottom'} {'left' if x < frame.shape[1] / 2 else 'right'}"


@pytest.mark.parametrize("orientation", MATRICES)
def test_films_are_turned_as_their_matrix_says(tmp_path, orientation):
    write_video(tmp_path / "a.mp4", np.repeat(stored()[None], 5, 0), 10)
    plain = read_video(tmp_path / "a.mp4")
    with_matrix(tmp_path / "a.mp4", MATRICES[orientation])
    shown, info = read_video(tmp_path / "a.mp4"), video_info(tmp_path / "a.mp4")
    np.testing.assert_array_equal(shown, upright(plain, orientation))
    assert corner_of(shown[0]) == CORNERS[orientation]
    assert shown.shape == (5, info.height, info.width, 3) and info.turned == (orientation > 1)
    assert shown.shape[1:3] == ((96, 64) if orientation >= 5 else (64, 96))
    np.testing.assert_array_equal(read_video(tmp_path / "a.mp4", 3, 1), shown[3:4])


@pytest.mark.parametrize("jpeg", [True, False])
@pytest.mark.parametrize("orientation", MATRICES)
def test_pictures_are_turned_as_exif_says(tmp_path, orientation, jpeg):
    for order in "<>":
        content = with_exif(orientation, jpeg, order)
        (tmp_path / "a").write_bytes(content)
        shown = read_image(tmp_path / "a")[0]
        assert corner_of(shown) == CORNERS[orientation] and shown.shape[:2] == ((96, 64) if orientation >= 5 else (64, 96))
        np.testing.assert_array_equal(decode_image(content, "a"), shown)


def test_upright_by_hand():
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    told = {2: [[2, 1, 0], [5, 4, 3]], 3: [[5, 4, 3], [2, 1, 0]], 4: [[3, 4, 5], [0, 1, 2]], 5: [[0, 3], [1, 4], [2, 5]],
            6: [[3, 0], [4, 1], [5, 2]], 7: [[5, 2], [4, 1], [3, 0]], 8: [[2, 5], [1, 4], [0, 3]]}  # fmt: skip
    for orientation, rows in told.items():
        assert upright(image, orientation)[0, ..., 0].tolist() == rows


def test_exif_that_says_nothing_of_use():
    whole = with_exif(6, True)
    assert of_exif(whole) == 6 and of_exif(with_exif(0, True)) == of_exif(with_exif(9, False)) == 1
    for content in (b"", b"\xff\xd8\xff", b"\x89PNG", b"\x89PNG\r\n\x1a\n", whole[:40].replace(b"II*\0", b"ABCD")):
        assert of_exif(content) == 1
    for end in range(2, 60):
        assert of_exif(whole[:end]) in (1, 6)


def test_matrices_that_are_no_quarter_turns(tmp_path):
    assert of_matrix([0] * 9) == 1 and of_matrix([2 * ONE, 5, 0, -5, ONE, 0, 0, 0, 1 << 30]) == 1
    with pytest.raises(Refused, match="expected quarter turns"):
        of_matrix([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30])
    write_video(tmp_path / "a.mp4", np.repeat(stored()[None], 2, 0), 10)
    with_matrix(tmp_path / "a.mp4", (46341, 46341, -46341, 46341))
    for look in (read_video, video_info):
        with pytest.raises(BadClip, match="a.mp4: got a display matrix .*expected quarter turns; fix: "):
            look(tmp_path / "a.mp4")


@pytest.mark.parametrize(("aspect", "size"), [("4/3", (64, 128)), ("8/9", (72, 96)), ("1/1", (64, 96)), ("2", (64, 192))])
def test_pixels_that_are_not_square_are_stretched(tmp_path, aspect, size):
    for suffix in (".mp4", ".mkv"):
        path = tmp_path / f"a{suffix}"
        write_numbered(path, range(12), sample_aspect=Fraction(aspect))
        shown, info = read_video(path), video_info(path)
        assert shown.shape == (12, *size, 3) == (12, info.height, info.width, 3) and info.stretched == (aspect != "1/1")
        assert numbers(shown) == list(range(12)) and numbers(read_video(path, 7, 2)) == [7, 8]
        expected = picture(5, *size).astype(int)
        assert np.abs(shown[5].astype(int) - expected).mean() < 12  # soft edges of the blocks


def test_sizes_of_stretched_pictures():
    assert shown_size(720, 576, Fraction(64, 45)) == (1024, 576) and shown_size(1440, 1080, Fraction(4, 3)) == (1920, 1080)
    assert shown_size(640, 360, Fraction(405, 404)) == (640, 360) == shown_size(640, 360, None)  # rounding of an encoder
    with pytest.raises(Refused, match="got pixels 40 times as wide as high"):
        shown_size(640, 360, Fraction(40))


def test_a_set_says_how_it_is_shown_and_shows_it_everywhere(tmp_path):
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", np.repeat(stored()[None], 12, 0), 10)
    with_matrix(tmp_path / "a.mp4", MATRICES[6])
    write_numbered(tmp_path / "c.mp4", range(12), sample_aspect=Fraction(4, 3))
    found = open_episodes(tmp_path)
    told = found.about()
    assert "1 of 3 videos turned upright or mirrored" in told and "1 of 3 videos stretched to square pixels" in told
    assert [note for note in summarize(tmp_path).notes if "of 3 videos" in note] == found.video_notes() and check_data(tmp_path) == []
    sheet = sample_frames(found, 0, count=3, height=48)
    assert sheet.shape == (3, 48, 32, 3) and corner_of(sheet[0]) == "top right"
    write_image(tmp_path / "still.png", stored())  # no EXIF: as it is
    assert corner_of(read_image(tmp_path / "still.png")[0]) == "top left"
