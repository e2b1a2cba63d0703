import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from wfm_ar.data import read_image, read_video, video_info, write_image, write_video
from wfm_ar.decoding import pool
from wfm_ar.decoding.limits import DecodeLimits
from wfm_ar.errors import BadClip, WfmError


@pytest.fixture
def clip(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    path = tmp_path / "clip.mp4"
    write_video(path, frames, 10, lossless=True)
    return path, frames


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_calls_share_a_child(clip):
    path, frames = clip
    pool.close()
    for _ in range(3):
        np.testing.assert_array_equal(read_video(path), frames)
    assert video_info(path).frames == 9 and len(pool.child_ids()) == 1


def test_a_part_is_not_mixed_with_what_an_earlier_call_left(clip, tmp_path):
    path, frames = clip
    write_video(tmp_path / "small.mp4", frames[:2, :16, :16], 10, lossless=True)
    for _ in range(2):
        np.testing.assert_array_equal(read_video(path), frames)
        np.testing.assert_array_equal(read_video(tmp_path / "small.mp4"), frames[:2, :16, :16])
    first = read_video(path)
    read_video(tmp_path / "small.mp4")
    np.testing.assert_array_equal(first, frames)  # its memory is its own
    first += 1  # and writable


def test_from_many_threads(clip):
    path, frames = clip
    wrong = []

    def work():
        for start in range(8):
            if not np.array_equal(read_video(path, start, 2), frames[start : start + 2]):
                wrong.append(start)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and 1 <= len(pool.child_ids()) <= max(2, os.cpu_count() or 1)


def _report(path: str, queue) -> None:
    queue.put((int(read_video(path).sum()), pool.child_ids()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_worker_processes(clip, method):
    path, frames = clip
    read_video(path)
    ours = pool.child_ids()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_report, args=(str(path), queue))
    worker.start()
    total, theirs = queue.get(timeout=60)
    worker.join()
    assert total == int(frames.sum()) and not set(ours) & set(theirs)
    assert all(gone(pid) for pid in theirs)
    np.testing.assert_array_equal(read_video(path), frames)
    assert pool.child_ids() == ours


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_children_end_with_their_parent(clip, end):
    script = "import sys, time\nfrom wfm_ar.data import read_video\nfrom wfm_ar.decoding import pool\nread_video(sys.argv[1])\n"
    script += "print(*pool.child_ids(), flush=True)\n" + ("time.sleep(60)" if end == "kill" else "")
    parent = subprocess.Popen([sys.executable, "-c", script, str(clip[0])], stdout=subprocess.PIPE, text=True)
    (child,) = [int(word) for word in parent.stdout.readline().split()]
    if end == "kill":
        assert alive(child)
        parent.kill()
    assert parent.wait(20) == (-9 if end == "kill" else 0)
    parent.stdout.close()
    assert gone(child)


def test_a_child_killed_between_calls_is_replaced(clip):
    path, frames = clip
    read_video(path)
    before = pool.child_ids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
    np.testing.assert_array_equal(read_video(path), frames)
    assert not set(before) & set(pool.child_ids())


def test_interrupts_are_for_the_parent(clip):
    path, frames = clip
    read_video(path)
    before = pool.child_ids()
    for pid in before:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, name)
    np.testing.assert_array_equal(read_video(path), frames)
    assert pool.child_ids() == before


def test_a_crash_on_a_file_is_one_line(clip, monkeypatch):
    path, _ = clip
    pool.close()
    monkeypatch.setattr(pool, "_Child", _child_that("os.kill(os.getpid(), signal.SIGSEGV)"))
    with pytest.raises(BadClip, match=r"clip.mp4: the decoder crashed on it \(SIGSEGV\)"):
        read_video(path)
    assert pool.child_ids() == []


def test_a_hang_is_ended(clip, monkeypatch):
    path, _ = clip
    pool.close()
    monkeypatch.setattr(pool, "_Child", _child_that("time.sleep(100)"))
    began = time.monotonic()
    with pytest.raises(BadClip, match="no sign of life for 0.3 s"):
        read_video(path, limits=DecodeLimits(silence_seconds=0.3))
    assert time.monotonic() - began < 10 and pool.child_ids() == []


def test_a_file_that_spins_runs_out_of_cpu_time(clip, monkeypatch):
    path, _ = clip
    pool.close()
    monkeypatch.setattr(pool, "_Child", _child_that("child._Work(None, limits)\n    while True: pass"))
    with pytest.raises(BadClip, match="used up its CPU time"):
        read_video(path, limits=DecodeLimits(cpu_seconds=0.01))


def test_a_child_that_has_lived_long_spins_no_longer(clip, monkeypatch):
    """The kernel's ticks pass by who works a little at a time; what is spent now is what counts."""
    path, _ = clip
    pool.close()
    bursts = "while time.process_time() < 1.5:\n        end = time.process_time() + 0.001\n        while time.process_time() < end: pass"
    spin = f"{bursts}\n        time.sleep(0.0005)\n    child._Work(None, limits)\n    while True: pass"
    monkeypatch.setattr(pool, "_Child", _child_that(spin))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(BadClip, match="used up its CPU time"):
        read_video(path, limits=DecodeLimits(cpu_seconds=0.2))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5 + 0.2 + 0.6


def test_a_child_is_not_ended_while_it_waits(clip):
    path, frames = clip
    pool.close()
    read_video(path)
    before = pool.child_ids()
    assert len(before) == 1
    for _ in range(40):  # each with little left of its time
        np.testing.assert_array_equal(read_video(path, limits=DecodeLimits(cpu_seconds=0.2)), frames)
    assert pool.child_ids() == before


def test_a_file_that_spun_is_not_tried_again_until_it_changes(clip, monkeypatch):
    """Checking, opening and reading it would take the whole limit each."""
    path, frames = clip
    pool.close()
    with monkeypatch.context() as spinning:
        spinning.setattr(pool, "_Child", _child_that("child._Work(None, limits)\n    while True: pass"))
        with pytest.raises(BadClip, match="used up its CPU time"):
            read_video(path, 0, 5, limits=DecodeLimits(cpu_seconds=0.01))
    with pytest.raises(
        BadClip, match=f"{path.name}: the decoder used up its CPU time without getting on and was stopped, expected a sound"
    ):
        read_video(path, 0, 5, limits=DecodeLimits(cpu_seconds=0.01))
    assert pool.child_ids() == []  # no child was asked
    assert len(read_video(path, 0, 4, limits=DecodeLimits(cpu_seconds=0.01))) == 4  # another question is one
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(read_video(path, 0, 5, limits=DecodeLimits(cpu_seconds=0.01)), frames[:5])


def test_no_more_files_that_spun_are_remembered_than_some(clip, tmp_path, monkeypatch):
    path, _ = clip
    monkeypatch.setattr(pool, "_SPUN", 2)
    pool.close()
    monkeypatch.setattr(pool, "_POOL", pool._Pool())
    monkeypatch.setattr(pool, "_Child", _child_that("child._Work(None, limits)\n    while True: pass"))
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(path.read_bytes())
        with pytest.raises(BadClip):
            read_video(tmp_path / f"{i}.mp4", limits=DecodeLimits(cpu_seconds=0.01))
    assert len(pool._POOL.spun) == 2


def test_a_child_that_cannot_start_says_why(clip, monkeypatch):
    pool.close()
    monkeypatch.setattr(pool, "_Child", _child_that("", start="raise ImportError('libavformat.so.62 is missing')"))
    with pytest.raises(WfmError, match="video decoder: cannot start .*libavformat.so.62 is missing"):
        read_video(clip[0])


def _child_that(what: str, start: str = "") -> type:
    """A child that says it is ready, and then does `what` when it is asked."""
    script = f"""
import os, signal, socket, sys, time
from wfm_ar.decoding import child
from wfm_ar.decoding.limits import DecodeLimits
{start}
channel = socket.socket(fileno=int(sys.argv[1]))
child._send(channel, {{"ready": 1}})
while line := child._receive(channel)[0]:
    import json
    limits = DecodeLimits(**json.loads(line)["limits"])
    {what}
"""

    class Child(pool._Child):
        def command(self, fd: int) -> list[str]:
            return [sys.executable, "-P", "-S", "-c", script, str(fd)]

    return Child


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"frames": 4}, "got more than 4 frames"),
        ({"pixels": 1000}, "48x32 pixels, expected at most 1000 in all|cannot be read as video"),
        ({"output_bytes": 3 * 32 * 48 * 5}, "got more than 5 frames of 48x32 pixels"),
    ],
)
def test_limits(clip, limits, words):
    path, frames = clip
    with pytest.raises(BadClip, match=words):
        read_video(path, limits=replace(pool.LIMITS, **limits))
    np.testing.assert_array_equal(read_video(path), frames)  # the next call is not the poorer for it


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two pictures of 4K: 12 MB each as they are decoded, more than any child has left over from earlier work."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    frames = np.zeros((2, 2160, 3840, 3), np.uint8)
    frames[:, ::16] = 200
    write_video(path, frames, 10)
    return path, frames


@pytest.mark.parametrize("used", [False, True])
def test_a_limit_of_memory(clip, large, used):
    """Refused by a fresh child as by one that has decoded before, and whole with the room it needs."""
    pool.close()
    if used:
        np.testing.assert_array_equal(read_video(clip[0]), clip[1])
    for mebibytes in (1, 8):
        with pytest.raises(BadClip, match=f"needs more than {mebibytes} MiB|cannot be read as video|crashed on it"):
            read_video(large[0], limits=replace(pool.LIMITS, memory_bytes=mebibytes << 20))
    found = read_video(large[0])
    assert found.shape == large[1].shape and np.abs(found.astype(np.int16) - large[1]).max() < 40
    np.testing.assert_array_equal(read_video(clip[0]), clip[1])


def test_the_system_holds_the_child_to_its_memory(clip):
    """The limit is the kernel's, on the whole address space: no code in the child can go beyond it."""
    for mebibytes in (700, 900):
        np.testing.assert_array_equal(read_video(clip[0], limits=replace(pool.LIMITS, memory_bytes=mebibytes << 20)), clip[1])
        (pid, *_) = pool.child_ids()
        with open(f"/proc/{pid}/limits") as file:
            (line,) = [line for line in file if line.startswith("Max address space")]
        assert line.split()[3] == str(mebibytes << 20)
        with open(f"/proc/{pid}/statm") as file:
            assert int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") < mebibytes << 20


def test_a_picture_has_limits_too(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(BadClip, match="a.png"):
        read_image(tmp_path / "a.png", limits=DecodeLimits(pixels=10_000))
    with pytest.raises(BadClip, match="got an image of .* bytes, expected at most 100"):
        read_image(tmp_path / "a.png", limits=DecodeLimits(image_bytes=100))


def test_an_answer_from_a_strange_child_is_not_believed():
    target = pool._anonymous_file()
    os.write(target, bytes(12))
    assert pool._frames(target, [1, 2, 2, 3], pool.LIMITS).shape == (1, 2, 2, 3)
    for shape in ([1, 2, 3, 3], [0, 2, 2, 3], [1, 2, 2, 1], [-1, -2, 2, 3], [1 << 40, 1 << 40, 2, 3]):
        with pytest.raises(pool._Died, match="shape"):
            pool._frames(target, shape, pool.LIMITS)
    os.close(target)


def test_the_child_imports_little(clip):
    read_video(clip[0])
    (pid, *_) = pool.child_ids()
    with open(f"/proc/{pid}/maps") as file:
        libraries = {line.split()[-1].rpartition("/")[2] for line in file if ".so" in line}
    assert not any(name.startswith(("libtorch", "_multiarray")) for name in libraries) and any("avcodec" in name for name in libraries)
    with open(f"/proc/{pid}/environ", "rb") as file:
        names = {one.partition(b"=")[0].decode() for one in file.read().split(b"\0") if one}
    assert names <= {*pool._KEPT_VARIABLES, "PYTHONPATH"}, "secrets of the environment stay out of its reach"


def test_the_socket_speaks_json_lines():
    ours, theirs = socket.socketpair()
    from wfm_ar.decoding import child

    child._send(theirs, {"count": 3})
    assert json.loads(ours.recv(100)) == {"count": 3}
    ours.close()
    assert child._receive(theirs) == (b"", [])
    theirs.close()
