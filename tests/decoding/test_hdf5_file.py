"""HDF5 as the child reads it: what is refused, and that the process can open no second file meanwhile."""

import os

import numpy as np
import pytest

from wfm_ar.decoding.limits import DecodeLimits, Refused, most_bytes

h5py = pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
from wfm_ar.decoding import hdf5_file  # noqa: E402 - it imports h5py

LIMITS = DecodeLimits()


@pytest.fixture
def make(tmp_path):
    """make(change) -> an open file of one demo of 6 frames, after change(demo)."""
    opened = []

    def build(change=lambda demo: None) -> int:
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            demo = file.create_group("data/demo_0")
            demo["actions"] = np.arange(12, dtype=">f8").reshape(6, 2)
            demo.create_dataset("obs/image", data=np.arange(6 * 48, dtype=np.uint8).reshape(6, 4, 4, 3), chunks=(4, 4, 4, 3))
            demo["obs/open"] = np.array([True, False, True, True, False, True])
            change(demo)
        opened.append(os.open(tmp_path / "a.hdf5", os.O_RDONLY))
        return opened[-1]

    yield build
    for fd in opened:
        os.close(fd)


def survey(fd):
    return hdf5_file.survey(fd, LIMITS, lambda pixels: None)


def read(fd, names, start, count):
    target = os.memfd_create("target")
    try:
        described = hdf5_file.read(fd, "data/demo_0", names, start, count, target, LIMITS, lambda pixels: None)
        content, out = os.pread(target, 1 << 20, 0), []
        for dtype, shape in described:
            out.append(np.frombuffer(content, dtype, int(np.prod(shape))).reshape(shape))
            content = content[out[-1].nbytes :]
        assert not content
        return out
    finally:
        os.close(target)


def test_what_a_file_holds(make):
    (demo,) = survey(make())["demos"]
    assert demo["error"] is None and demo["arrays"] == {
        "actions": ("<f8", [6, 2]),
        "obs/image": ("|u1", [6, 4, 4, 3]),
        "obs/open": ("|b1", [6]),
    }


@pytest.mark.parametrize(("start", "count"), [(0, None), (0, 1), (3, 2), (2, 4), (5, 1), (4, None)])
def test_rows_across_chunks(make, start, count):
    image, actions, opened = read(make(), ["obs/image", "actions", "obs/open"], start, count)
    part = np.s_[start : None if count is None else start + count]
    np.testing.assert_array_equal(image, np.arange(6 * 48, dtype=np.uint8).reshape(6, 4, 4, 3)[part])
    np.testing.assert_array_equal(actions, np.arange(12.0).reshape(6, 2)[part])
    np.testing.assert_array_equal(opened, np.array([True, False, True, True, False, True])[part])


def test_rows_that_are_not_there(make):
    with pytest.raises(Refused, match="actions has 6 rows, expected 4 to 7 too"):
        read(make(), ["actions"], 4, 4)


def unwritten_chunk(demo):
    array = demo.create_dataset("obs/depth", shape=(6, 1000), chunks=(1, 1000), dtype="f4")
    array[:5] = 1


def unwritten(demo):
    demo.create_dataset("obs/depth", shape=(6, 1000), dtype="f4")


def shared(demo):
    demo["obs/again"] = demo["actions"]


def large_chunk(demo):
    demo.create_dataset("obs/depth", shape=(6, 100 << 20), chunks=(6, 100 << 20), dtype="f4")


def unknown_filter(demo):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((6, 2))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # zstandard, from a library
    h5py.h5d.create(demo["obs"].id, b"packed", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((6, 2)), properties)


def odd_name(demo):
    demo["obs/a\nb"] = np.zeros(6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (unwritten_chunk, "obs/depth has 5 of its 6 chunks"),
        (unwritten, "obs/depth has 0 of its 24000 bytes"),
        (shared, "obs/again is data/demo_0/actions under another name"),
        (large_chunk, "stored in chunks of"),
        (unknown_filter, "obs/packed is packed with filter 32015"),
        (odd_name, r"obs holds the name 'a\\nb'"),
        (lambda demo: demo.move("obs/image", "obs/moved") or demo.__setitem__("obs/image", h5py.SoftLink("moved")), "a soft link"),
    ],
)
def test_what_is_refused(make, change, words):
    (demo,) = survey(make(change))["demos"]
    assert demo["arrays"] == {}
    with pytest.raises(Refused, match=words):
        raise Refused(demo["error"])


def test_a_file_that_unpacks_to_much_more(make):
    fd = make(lambda demo: demo.create_dataset("obs/x", data=np.zeros((6, 8 << 20), np.float64), compression="gzip"))
    assert os.fstat(fd).st_size < 1 << 20 and most_bytes(os.fstat(fd).st_size) < 6 * 8 * 8 << 20
    with pytest.raises(Refused, match="unpacks to more than"):
        survey(fd)
    with pytest.raises(Refused, match="unpacks to"):
        read(fd, ["obs/x"], 0, None)


def test_no_second_file_can_be_opened(make, tmp_path):
    fd = make()
    with hdf5_file._open(fd, LIMITS) as file:
        assert "data" in file
        with pytest.raises(OSError, match="Too many open files"):
            os.open(tmp_path / "a.hdf5", os.O_RDONLY)
    os.close(os.open(tmp_path / "a.hdf5", os.O_RDONLY))
