"""robomimic's layout in HDF5: windows, masks, rates, and every mistake in one line."""

import json

import numpy as np
import pytest

from wfm_ar.data import open_episodes
from wfm_ar.data.fingerprint import origins
from wfm_ar.errors import BadActions, BadClip, BadConfig, BadData

h5py = pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")


@pytest.fixture
def make(tmp_path):
    """make(change) -> an .hdf5 file of three demos of 6 frames, after change(file)."""

    def build(change=lambda file: None, name="demo.hdf5"):
        rng = np.random.default_rng(0)
        with h5py.File(tmp_path / name, "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 12}})
            for i in (0, 2, 10):
                demo = data.create_group(f"demo_{i}")
                demo["actions"] = rng.uniform(-1, 1, (6, 7)).astype(np.float32)
                demo.create_dataset(
                    "obs/front_image",
                    data=np.full((6, 8, 8, 3), 20 * i, np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None],
                    chunks=(1, 8, 8, 3),
                    compression="gzip",
                )
                demo["obs/eef_pos"] = rng.normal(size=(6, 3))
            data["demo_2"].attrs["language_instruction"] = "lift the cube"
            file["mask/train"], file["mask/valid"] = np.array([b"demo_0", b"demo_2"]), np.array([b"demo_10"])
            change(file)
        return tmp_path / name

    return build


def test_episodes_in_order_with_masks_texts_and_rate(make):
    episodes = open_episodes(make())
    assert [(e.id, e.split, e.text) for e in episodes] == [
        ("demo_0", "train", None),
        ("demo_2", "train", "lift the cube"),
        ("demo_10", "val", None),
    ]
    assert episodes.format == "hdf5" and episodes[0].fps == 12 == episodes.schema.rate_hz and episodes.num_frames(2) == 6
    assert (episodes.load_frames(2, 3, 2)[:, 0, 0, 0] == [203, 204]).all() and episodes.load_actions(1).shape == (5, 7)
    assert episodes.load_state(0).keys() == {"eef_pos"} and episodes.load_state(0)["eef_pos"].shape == (6, 3)
    with pytest.raises(BadClip, match="front_image: got 6 frames, expected frames 5 to 6 too"):
        episodes.load_frames(0, 5, 2)


def test_a_folder_of_files_and_a_rate_that_is_not_told(make, tmp_path):
    def no_rate(file):
        del file["data"].attrs["env_args"], file["mask"]

    make(no_rate, "a.hdf5"), make(no_rate, "b.h5")
    episodes = open_episodes(tmp_path)
    assert [e.id for e in episodes][:4] == ["a/demo_0", "a/demo_2", "a/demo_10", "b/demo_0"] and {e.split for e in episodes} == {
        "train",
        "val",
    }
    assert "20 frames a second assumed" in episodes.about() and open_episodes(tmp_path, fps=5)[0].fps == 5


def change(name, value):
    def apply(file):
        del file[name]
        if value is not None:
            file[name] = value

    return apply


@pytest.mark.parametrize(
    ("mistake", "error", "line"),
    [
        (change("data", None), BadData, "got .*mask.*expected data/demo_0"),
        (change("data/demo_0/obs", None), BadData, "data/demo_0 has no obs"),
        (change("data/demo_0/obs/front_image", np.zeros((6, 8, 8, 3), np.float32)), BadData, "data/demo_0/obs holds no uint8"),
        (change("data/demo_2/obs/front_image", None), BadData, "data/demo_2/obs/front_image cannot be found"),
        (change("data/demo_2/obs/front_image", h5py.ExternalLink("other.hdf5", "/x")), BadData, "leads to another file"),
        (change("data/demo_2", h5py.ExternalLink("other.hdf5", "/x")), BadData, "leads to another file"),
        (
            change("data/demo_2/actions", np.zeros((3, 7), np.float32)),
            BadActions,
            "data/demo_2 has 3 actions for 6 frames, expected 5 or 6",
        ),
        (change("data/demo_2/actions", np.zeros(6)), BadActions, r"data/demo_2/actions is float64 \[6\], expected numbers"),
        (change("data/demo_2/actions", np.full((6, 7), np.inf)), BadActions, r"got inf in row 0, column 0 \(a0\)"),
    ],
)
def test_one_line_a_mistake(make, mistake, error, line):
    with pytest.raises(error, match=line) as caught:
        episodes = open_episodes(make(mistake))
        [(episodes.load_frames(i), episodes.load_actions(i)) for i in range(len(episodes))]
    assert "\n" not in str(caught.value) and "; fix: " in str(caught.value)


def test_damage(make):
    path = make()
    whole = path.read_bytes()
    for broken in (b"no hdf5 at all", whole[: len(whole) // 3], b""):
        path.write_bytes(broken)
        with pytest.raises(BadData, match="cannot be read as HDF5"):
            open_episodes(path)


def test_each_demo_and_camera_has_a_fingerprint_of_its_own(make):
    path = make(lambda file: [file[f"data/demo_{i}"].copy("obs/front_image", "obs/side_image") for i in (0, 2, 10)])
    front, side = origins(open_episodes(path)), origins(open_episodes(path, camera="side_image"))
    assert len({origin.frames for origin in (*front, *side)}) == 6 and front[1].actions == side[1].actions
    assert origins(open_episodes(path)) == front


def test_a_row_beside_the_last_frame_may_hold_anything(make):
    def odd(row):
        def apply(file):
            file["data/demo_2/actions"][row] = np.nan

        return apply

    path = make(odd(5))
    episodes = open_episodes(path)
    with h5py.File(path) as file:
        assert (episodes.load_actions(1) == file["data/demo_2/actions"][:5]).all()
    with pytest.raises(BadActions, match=r"demo.hdf5: data/demo_2/actions: got nan in row 4, column 0 \(a0\)"):
        open_episodes(make(odd(4)))


def test_pictures_stored_bottom_row_first(make):
    """As LIBERO writes them: told where attributes or the name say so, and turned on request."""

    def upside_down(file):
        file["data"].attrs["bddl_file_name"] = "x.bddl"
        pictures = np.zeros((6, 8, 8, 3), np.uint8)
        pictures[:, :4], pictures[:, 4:] = 10, 200 + np.arange(6)[:, None, None, None]
        del file["data/demo_0/obs/front_image"]
        file["data/demo_0/obs/front_image"] = pictures[:, ::-1]

    path = make(upside_down)
    stored, turned = open_episodes(path), open_episodes(path, flip="vertical")
    assert "may be stored bottom row first" in stored.about() and stored.load_frames(0)[3, 0, 0, 0] == 203
    assert "may be stored" not in turned.about() and "turned upside down" in turned.about()
    assert (turned.load_frames(0)[:, 7, 0, 0] == 200 + np.arange(6)).all() and (turned.load_frames(0)[:, 0] == 10).all()
    assert "may be stored" not in open_episodes(make()).about()
    assert "may be stored" in open_episodes(make(name="libero_goal.hdf5")).about()


def test_files_that_say_another_rate_are_thinned_or_refused(make, tmp_path):
    def rate(value):
        return lambda file: file["data"].attrs.create("env_args", json.dumps({"env_kwargs": {"control_freq": value}}))

    make(rate(20), "a.hdf5"), make(rate(20.1), "b.hdf5")
    assert {episode.fps for episode in open_episodes(tmp_path)} == {20}  # within 1 %
    for fps, line in ((40, "fps: got 40, but .* has 20 frames a second"), (10, "channel 'a0' does not say whether it is a step")):
        with pytest.raises(BadConfig, match=line):
            open_episodes(tmp_path, fps=fps)
    make(rate(30), "b.hdf5")
    with pytest.raises(BadData, match=r"files of several control rates \(20, 30\)"):
        open_episodes(tmp_path)
