"""Copies of files: the same bytes, whole or not at all, and no more room than the file itself takes."""

import os
import time

import pytest

from wfm_ar.data import files
from wfm_ar.data.files import copy_atomic, remove_dead_parts
from wfm_ar.errors import BadData, NoSpace, OutputExists

GIGABYTES = 8 << 30


@pytest.mark.parametrize("size", [0, 1, files.PIECE - 1, files.PIECE, 2 * files.PIECE + 3])
def test_a_copy_has_the_same_bytes(tmp_path, size):
    (tmp_path / "a").write_bytes(os.urandom(size))
    copy_atomic(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes() and sorted(os.listdir(tmp_path)) == ["a", "b"]
    with pytest.raises(OutputExists):
        copy_atomic(tmp_path / "a", tmp_path / "b")
    copy_atomic(tmp_path / "a", tmp_path / "b", overwrite=True)


def test_what_was_never_written_takes_no_room_in_the_copy_either(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.write(b"head" * 1000)
        file.seek(3 << 30)
        file.write(b"middle" * 50_000)
        file.truncate(GIGABYTES)
    if (tmp_path / "a").stat().st_blocks * 512 > 4 << 20:
        pytest.skip("the file system has no sparse files")
    began = time.perf_counter()
    copy_atomic(tmp_path / "a", tmp_path / "b")
    about = (tmp_path / "b").stat()
    assert about.st_size == GIGABYTES and about.st_blocks * 512 < 4 << 20 and time.perf_counter() - began < 5
    with open(tmp_path / "b", "rb") as copy:
        assert copy.read(4010) == b"head" * 1000 + bytes(10)
        copy.seek((3 << 30) - 5)
        assert copy.read(300_010) == bytes(5) + b"middle" * 50_000 + bytes(5)


def test_a_file_system_that_tells_of_no_holes(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(os.urandom(files.PIECE + 7))

    def lseek(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files.os, "lseek", lseek)
    copy_atomic(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(("number", "kind"), [(28, NoSpace), (5, BadData)])
def test_a_copy_that_fails_leaves_what_was_there(tmp_path, monkeypatch, number, kind):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")

    def fsync(_):
        raise OSError(number, "failed")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(kind):
        copy_atomic(tmp_path / "a", tmp_path / "b", overwrite=True)
    assert (tmp_path / "b").read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_a_killed_copy_left_is_known(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def replace(*_):
        raise Killed

    (tmp_path / "a").write_bytes(b"new")
    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(files.Path, "unlink", lambda *_, **__: None)
    with pytest.raises(Killed):
        copy_atomic(tmp_path / "a", tmp_path / "b")
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 2 and remove_dead_parts(tmp_path) == 1 and os.listdir(tmp_path) == ["a"]
