"""numpy's files from anybody: sound ones come back as they were, and none asks for more than it holds."""

import io
import os
import zipfile

import numpy as np
import pytest

from wfm_ar.data.arrays import npz_bytes, read_npy, read_npz
from wfm_ar.errors import BadData

ARRAYS = {
    "numbers": np.arange(24, dtype=">f4").reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "words": np.array(["cube", "größe"]),
    "yes": np.array(True),
    "none": np.zeros((0, 7), np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    back = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(back, ARRAYS[name])
    assert back.dtype == ARRAYS[name].dtype and back.shape == ARRAYS[name].shape
    if back.size:
        back[...] = back.ravel()[0]  # its memory is its own


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_come_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    back = read_npz(tmp_path / "a.npz")
    assert list(back) == list(ARRAYS) and all(np.array_equal(back[name], ARRAYS[name]) for name in ARRAYS)


def test_written_archives_are_numpys_own_whatever_the_names(tmp_path):
    theirs = io.BytesIO()
    np.savez(theirs, **ARRAYS)
    assert npz_bytes(ARRAYS) == theirs.getvalue()
    packed = io.BytesIO()
    np.savez_compressed(packed, **ARRAYS)
    assert npz_bytes(ARRAYS, packed=True) == packed.getvalue()
    (tmp_path / "a.npz").write_bytes(npz_bytes({"file": np.arange(3), "args": np.arange(4), "allow_pickle": np.arange(5)}))
    assert {name: len(array) for name, array in read_npz(tmp_path / "a.npz").items()} == {"file": 3, "args": 4, "allow_pickle": 5}


def head(shape, dtype="<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "size", "words"),
    [
        (head((1 << 40,)), 0, "4398046511104 bytes, expected at most"),
        (head((1 << 31, 2)), 1 << 34, "17179869184 bytes, expected at most"),
        (head((8,), "<U134217728"), 0, "bytes, expected at most"),
        (head((100,)), 0, "got 0 bytes for"),
        (head((1 << 62, 0)), 0, "values, 0 bytes, expected at most"),
        (head((4,), "|O"), 0, "it holds objects"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 70_000, 0, "cannot be read"),
        (b"no numpy", 0, "cannot be read"),
        (b"", 0, "cannot be read"),
    ],
)
def test_what_promises_more_than_it_holds(tmp_path, content, size, words):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    os.truncate(path, max(size, len(content)))
    with pytest.raises(BadData, match=words) as caught:
        read_npy(path)
    assert str(caught.value).startswith(f"{path}: ") and "; fix: " in str(caught.value)


def test_archives_that_unpack_to_much_more(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w", force_zip64=True) as file:
        file.write(head((70 << 20,)))
        for _ in range(280):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BadData, match=r"unpacks to 2936\d+ bytes, expected at most 268435456"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(1001):
            archive.writestr(f"{i}.npy", b"")
    with pytest.raises(BadData, match="got 1001 arrays, expected at most 1000"):
        read_npz(path)


def test_pipes_and_folders(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nothing"):
        for read in (read_npy, read_npz):
            with pytest.raises(BadData, match="does not exist or is not a regular file"):
                read(path)
