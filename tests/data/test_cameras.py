"""Several cameras in one picture: where each stands, and turned where it stands."""

import numpy as np
import pytest
import tfrecord_maker as maker

from wfm_ar.data import open_episodes, write_image, write_video
from wfm_ar.data.cameras import tiled, tiling
from wfm_ar.data.fingerprint import origins
from wfm_ar.data.views import turned

CAMERAS = ("a", "b", "c")


@pytest.mark.parametrize(("count", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (4, (2, 2)), (5, (2, 3)), (7, (3, 3)), (10, (3, 4))])
def test_rows_and_columns(count, grid):
    assert tiling(count) == grid
    views = {f"{i}": np.full((2, 6, 4, 3), 10 + i, np.uint8) for i in range(count)}
    cells = tiled(list(views), views.get, "here").reshape(2, grid[0], 6, -1, 4, 3)[0, :, 0, :, 0, 0].ravel()
    assert cells.tolist() == [10 + i if i < count else 0 for i in range(grid[0] * grid[1])]


@pytest.fixture
def rlds(tmp_path):
    """An episode of two steps with three cameras; the upper half of camera i is 50 * i + 10, the lower 50 * i + 40."""
    pictures = {}
    for i, name in enumerate(CAMERAS):
        picture = np.full((8, 12, 3), 50 * i + 10, np.uint8)
        picture[4:] += 30
        write_image(tmp_path / f"{name}.png", picture)
        pictures[f"steps__observation__{name}"] = [(tmp_path / f"{name}.png").read_bytes()] * 2
    (tmp_path / "rlds").mkdir()
    maker.write_records(tmp_path / "rlds/set-train.tfrecord-00000-of-00001", [maker.example(**pictures)])
    return tmp_path / "rlds"


def test_each_of_several_cameras_is_turned_in_its_place(rlds, tmp_path):
    plain, flipped = (open_episodes(rlds, camera="tile", flip=flip) for flip in (None, "vertical"))
    frames = flipped.load_frames(0)
    assert plain.tiles == 3 and frames.shape == (2, 16, 24, 3) and frames.flags.c_contiguous
    corners = frames[1, ::4, ::12, 0]  # half a tile down, a tile to the right
    assert corners.tolist() == [[40, 90], [10, 60], [140, 0], [110, 0]]
    assert (turned(frames, "vertical", 3) == plain.load_frames(0)).all()
    alone = open_episodes(rlds, camera="c", flip="vertical")
    assert (alone.load_frames(0) == frames[:, 8:, :12]).all()
    assert len({origins(one)[0].frames for one in (plain, flipped, alone)}) == 3

    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips/0.mp4", plain.load_frames(0), 5, lossless=True)  # one view, whatever it shows
    both = open_episodes(f"{rlds}:{tmp_path / 'clips'}", camera="tile", flip="vertical")
    assert (both.load_frames(0) == frames).all() and (both.load_frames(1) == plain.load_frames(0)[:, ::-1]).all()
    assert both.about().count("turned upside down") == 2
