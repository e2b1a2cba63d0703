"""Outputs that are whole or not there, one process at each, and what is left by processes that were killed."""

import multiprocessing
import os
import signal
import warnings
from pathlib import Path

import pytest

from wfm_ar.data import claims
from wfm_ar.data.claims import claim, tidy_up, whole_files, whole_folder
from wfm_ar.data.files import remove_dead_parts, write_atomic
from wfm_ar.errors import BadData, Note, OutputExists


def _fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir()
    for name in ("a.txt", "inner/b.txt"):
        (folder / name).write_text(text)


def _texts(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in ("a.txt", "inner/b.txt")}


def _make(out: Path, text: str, overwrite: bool = True) -> None:
    with whole_folder(out, overwrite=overwrite) as part:
        _fill(part, text)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _killed_at(step: int, calls: tuple[str, ...], do) -> int:
    """`do()` in a child that is killed at its `step`-th call of one of os.`calls`, before the call -> its exit code."""
    if (child := os.fork()) == 0:
        left = [step]

        def counted(real):
            def call(*arguments, **named):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        for name in calls:
            setattr(os, name, counted(getattr(os, name)))
        claims._renamed = counted(claims._renamed)
        do()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


CALLS = ("open", "mkdir", "rename", "replace", "fsync", "rmdir", "unlink")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_killed_at_every_step_is_the_old_or_the_new_one_and_leaves_nothing(tmp_path, exchange, monkeypatch) -> None:
    if not exchange:
        monkeypatch.setattr(claims, "_renamed", lambda path, place, how: False)
    out, seen = tmp_path / "set", set()
    for step in range(1, 60):
        _make(out, "old")
        code = _killed_at(step, CALLS, lambda: _make(out, "new"))
        if code == 0:
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)
            with claim(out):
                pass
        seen.add(*_texts(out)) if len(_texts(out)) == 1 else pytest.fail(f"half of each after step {step}")
        assert _names(tmp_path) == ["set"], step
    assert seen == {"old", "new"} and 10 < step < 59


def test_what_was_set_aside_goes_back_and_is_said(tmp_path) -> None:
    """As a process leaves it that is killed between the two renames of a system without an exchange of names."""
    (tmp_path / ".old-set-123").mkdir()
    (tmp_path / ".old-set-123/mine.txt").write_text("my notes")
    (tmp_path / ".tmp-set-123").mkdir()
    with pytest.warns(Note, match="what was there before is back"), claim(tmp_path / "set"):
        assert (tmp_path / "set/mine.txt").read_text() == "my notes"
    assert _names(tmp_path) == ["set"]


def test_what_belongs_to_another_output_stays(tmp_path) -> None:
    for name in (".tmp-set-a-123", ".tmp-set-123x", ".tmp-set", ".set-b.0123abcd.part"):
        (tmp_path / name).mkdir()
    _make(tmp_path / "set", "new")
    assert len(_names(tmp_path)) == 5


def test_an_error_leaves_what_was_there(tmp_path) -> None:
    _make(tmp_path / "set", "old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "set", overwrite=True) as part:
        _fill(part, "new")
        1 / 0  # noqa: B018
    assert _texts(tmp_path / "set") == {"old"} and _names(tmp_path) == ["set"]
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "more/deep/set", overwrite=False):
        1 / 0  # noqa: B018
    assert _names(tmp_path) == ["set"]


def test_without_an_exchange_of_names_a_rename_that_fails_is_taken_back(tmp_path, monkeypatch) -> None:
    _make(tmp_path / "set", "old")
    real, calls = os.rename, []

    def rename(path, place):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        real(path, place)

    monkeypatch.setattr(claims, "_renamed", lambda path, place, how: False)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="Input/output error"):
        _make(tmp_path / "set", "new")
    assert len(calls) == 3 and _texts(tmp_path / "set") == {"old"} and _names(tmp_path) == ["set"]


def test_what_comes_to_stand_there_meanwhile_is_not_replaced(tmp_path) -> None:
    with pytest.raises(OutputExists, match="exists already"), whole_folder(tmp_path / "set", overwrite=False) as part:
        _fill(part, "new")
        (tmp_path / "set").mkdir()
        (tmp_path / "set/mine").touch()
    assert _names(tmp_path / "set") == ["mine"] and _names(tmp_path) == ["set"]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path) -> None:
    _make(tmp_path / "real", "old")
    (tmp_path / "set").symlink_to("real")
    _make(tmp_path / "set", "new")
    assert _texts(tmp_path / "set") == {"new"} and _texts(tmp_path / "real") == {"old"} and _names(tmp_path) == ["real", "set"]


def _hold(out: Path, pipe) -> None:
    with claim(out):
        pipe.send(os.getpid())
        pipe.recv()


def test_two_processes_do_not_write_one_output(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_hold, args=(tmp_path / "set", theirs))
    child.start()
    holder = ours.recv()
    with pytest.raises(OutputExists, match=rf"another process \({holder}\) is writing it now"):
        _make(tmp_path / "set", "new")
    tidy_up(tmp_path, ["set"])
    with claim(tmp_path / "other"):
        pass
    child.kill()
    child.join()
    _make(tmp_path / "set", "new")  # the system has freed the lock
    assert _names(tmp_path) == ["set"]


def test_of_many_at_once_one_writes(tmp_path) -> None:
    """Each either writes its whole set, or is refused: by the lock, or by what is there."""
    children, context = [], multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def write(text: str) -> None:
        try:
            _make(tmp_path / "set", text, overwrite=False)
            queue.put(text)
        except OutputExists:
            queue.put("")

    for k in range(8):
        children.append(context.Process(target=write, args=(str(k),)))
        children[-1].start()
    for child in children:
        child.join()
    done = [text for text in (queue.get() for _ in children) if text]
    assert len(done) == 1 and _texts(tmp_path / "set") == {done[0]} and _names(tmp_path) == ["set"]


def _write_clip(out: Path, text: str, overwrite: bool = False) -> None:
    with claim(out), whole_files(out, overwrite=overwrite) as part:
        for suffix in (".mp4", ".json", ".png"):
            (part / out.with_suffix(suffix).name).write_text(text)


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_killed_at_every_step_are_all_there_or_none(tmp_path, overwrite) -> None:
    out, seen = tmp_path / "clips/a.mp4", set()
    for step in range(1, 60):
        for path in out.parent.iterdir() if out.parent.exists() else ():
            path.unlink()
        if overwrite:
            _write_clip(out, "old", overwrite=True)
        if _killed_at(step, CALLS, lambda: _write_clip(out, "new", overwrite)) == 0:
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)
            tidy_up(out.parent, [out.name])
            with claim(out):
                pass
        there = {path.name: path.read_text() for path in (out.parent.iterdir() if out.parent.exists() else ())}
        assert len(there) in (0, 3) and len(set(there.values())) <= 1, (step, there)
        seen |= set(there.values()) or {""}
    assert seen == {"old" if overwrite else "", "new"} and 10 < step < 59


def test_files_that_are_there_stay(tmp_path) -> None:
    out = tmp_path / "a.mp4"
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(OutputExists, match="a.png: exists already"):
        _write_clip(out, "new")
    assert _names(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_text() == "mine"
    (tmp_path / ".new-a.mp4-7").mkdir()  # whole, but somebody has put a picture there since
    for suffix in (".mp4", ".json", ".png"):
        (tmp_path / f".new-a.mp4-7/a{suffix}").write_text("new")
    with pytest.warns(Note, match="others are in their places"), claim(out):
        pass
    assert _names(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadData, match="cannot be written .*; fix: ") as error, claim(tmp_path / "file/a.mp4"):
        pytest.fail("the work began")
    assert "\n" not in str(error.value)


def test_long_names(tmp_path) -> None:
    name = "x" * 255
    _make(tmp_path / name, "new")
    write_atomic(tmp_path / ("y" * 255), b"1")
    assert _names(tmp_path) == [name, "y" * 255]


def test_parts_of_dead_processes_go_and_living_ones_stay(tmp_path, monkeypatch) -> None:
    (tmp_path / ".index.json.0123abcd.part").write_bytes(b"{")
    (tmp_path / ".other.json.0123abcd.part").write_bytes(b"{")
    (tmp_path / ".index.json.notes.part").write_text("mine")

    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (remove_dead_parts(tmp_path), real(handle)))  # while new.json is being written
    write_atomic(tmp_path / "new.json", b"{}")
    assert _names(tmp_path) == [".index.json.notes.part", "new.json"]
