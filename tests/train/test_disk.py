"""A checkpoint at every moment at which it can go wrong: death, a full disk and a power cut at each single file operation.

A scenario is a save in a folder where other checkpoints have been reported as written. Whatever happens in it, those or newer
ones are there afterwards, whole; and the next save works.
"""

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wfm_ar.errors import NoSpace
from wfm_ar.train.checkpoint import RunLock, load_checkpoint, newest_checkpoint, save_checkpoint, step_of
from wfm_ar.train.disk import Disk

DIED = 77


def save(run: Path, step: int, disk: Disk | None = None, value: float | None = None) -> None:
    tensors = {name: {"w": torch.full((3, 5), float(step if value is None else value))} for name in ("model", "ema")}
    save_checkpoint(run, step, tensors, {"step": step}, 2, disk)


def first(run: Path, disk: Disk) -> None:
    save(run, 5, disk)


def another(run: Path, disk: Disk) -> None:  # and step 5 is dropped
    save(run, 15, disk)


def again(run: Path, disk: Disk) -> None:
    save(run, 10, disk, value=-10)


# scenario -> the newest step reported before it, and after it
SCENARIOS: dict[Callable, tuple[int, int]] = {first: (-1, 5), another: (10, 15), again: (10, 10)}


@pytest.fixture(params=SCENARIOS, ids=lambda s: s.__name__)
def scenario(request):
    return request.param


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: these tests sync thousands of times, and look at none of it."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path, scenario) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    if scenario is not first:
        save(folder, 5)
        save(folder, 10)
    return folder


class Counter(Disk):
    def __init__(self):
        self.operations = []

    def before(self, operation, path):
        self.operations.append((operation, path))


def operations_of(scenario, run: Path) -> list[tuple[str, Path]]:
    trial, counter = run.with_name("trial"), Counter()
    shutil.copytree(run, trial)
    scenario(trial, counter)
    shutil.rmtree(trial)
    return counter.operations


def check(run: Path, at_least: int, where: str) -> int:
    """The newest whole checkpoint is new enough, says what its step says, before and after the run folder is taken over; and
    the next save leaves nothing behind. -> its step."""
    before = newest_checkpoint(run)
    with RunLock(run):
        newest = newest_checkpoint(run)
        assert (before is None) == (newest is None) and not list(run.glob(".tmp-*")), where
        step = -1
        if newest is not None:
            tensors, state = load_checkpoint(newest)
            step = state["step"]
            assert step == step_of(newest) == step_of(before) and abs(float(tensors["ema"]["w"][0, 0])) == step, where
            assert torch.equal(tensors["ema"]["w"], tensors["model"]["w"]), where
        assert step >= at_least, f"{where}: got {step}, expected {at_least}"
        save(run, 20)
        assert step_of(newest_checkpoint(run)) == 20 and not list(run.glob(".tmp-*")), where
    return step


@pytest.mark.parametrize("half", [False, True], ids=["before", "in_the_middle"])
def test_death_at_every_operation(run, scenario, half, tmp_path):
    class Mortal(Counter):
        def before(self, operation, path):
            super().before(operation, path)
            if len(self.operations) == self.last and not (half and operation == "write"):
                os._exit(DIED)

        def put(self, file, piece):
            if len(self.operations) == self.last:
                file.write(piece[: len(piece) // 2])
                os._exit(DIED)
            super().put(file, piece)

    operations, found = operations_of(scenario, run), []
    assert {"mkdir", "create", "write", "fsync", "rename"} <= {name for name, _ in operations} and len(operations) >= 15
    for number, (name, _) in enumerate(operations, 1):
        if half and name != "write":
            continue
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        if (child := os.fork()) == 0:
            disk = Mortal()
            disk.last = number
            scenario(copy, disk)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DIED
        found.append(check(copy, SCENARIOS[scenario][0], f"operation {number} of {len(operations)}, {name}"))
        shutil.rmtree(copy)
    assert set(found) <= set(SCENARIOS[scenario]) and found[0] == SCENARIOS[scenario][0]
    if not half and scenario is not first:
        assert found[-1] == SCENARIOS[scenario][1]  # the last moments are after the rename


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_an_error_at_every_operation(run, scenario, number, tmp_path):
    class Failing(Counter):
        def before(self, operation, path):
            super().before(operation, path)
            if len(self.operations) == self.bad:
                raise OSError(number, os.strerror(number), str(path))

    operations = operations_of(scenario, run)
    told = 0
    for bad in range(1, len(operations) + 1):
        copy, disk = tmp_path / "copy", Failing()
        shutil.copytree(run, copy)
        disk.bad = bad
        before, after = SCENARIOS[scenario]
        try:
            scenario(copy, disk)
            assert step_of(newest_checkpoint(copy)) == after
        except NoSpace as error:
            told += 1
            assert os.strerror(number) in str(error) and "fix:" in str(error)
            before = max(before, step_of(newest) if (newest := newest_checkpoint(copy)) else -1)
            assert not [path for path in copy.glob(".tmp-*") if "drop" not in path.name]
        check(copy, before, f"{operations[bad - 1]}")
        shutil.rmtree(copy)
    assert told >= 12  # every write and sync of the five files


class Recorder(Disk):
    """The operations with all that is needed to do them again."""

    def __init__(self):
        self.log = []

    def before(self, operation, path):
        if operation not in ("write", "rename"):
            self.log.append((operation, path))

    def put(self, file, piece):
        self.log.append(("write", Path(file.name), bytes(piece)))
        super().put(file, piece)

    def rename(self, old, new):
        self.log.append(("rename", old, new))
        super().rename(old, new)


def disks_after_a_power_cut(base: Path, log: list[tuple], at: int, reported: bool, out: Path, seen: set):
    """The states that may be found after a power cut before operation `at`, each built in `out` and yielded as (names known, text).

    Names (mkdir, create, rename, unlink, rmdir) reach the disk in their order, all before the last sync of a folder, the later
    ones or not. A file's bytes are there once it was synced; before that it may be empty or end in the middle.
    """
    names = [i for i in range(at) if log[i][0] in ("mkdir", "create", "rename", "unlink", "rmdir")]
    synced = {i for i in range(at) if log[i][0] == "fsync"}
    folders_synced = [i for i in synced if not log[i][1].suffix]
    forced = sum(i < max(folders_synced, default=0) for i in names)
    whole = {log[i][1] for i in synced if log[i][1].suffix}
    contents: dict[Path, bytes] = {}
    for entry in log[:at]:
        if entry[0] == "write":
            contents[entry[1]] = contents.get(entry[1], b"") + entry[2]
    for known in range(forced, len(names) + 1):
        for share in (0.0, 0.5):
            key = (known, frozenset(whole), share, reported)
            if key in seen:
                continue
            seen.add(key)
            shutil.copytree(base, out)
            for i in names[:known]:
                operation, path = (
                    log[i][0],
                    out / log[i][1].name if log[i][1].parent == base else out / log[i][1].parent.name / log[i][1].name,
                )
                if operation == "mkdir":
                    path.mkdir()
                elif operation == "create":
                    content = contents.get(log[i][1], b"")
                    path.write_bytes(content if log[i][1] in whole else content[: int(len(content) * share)])
                elif operation == "rename":
                    os.rename(path, out / log[i][2].name)
                elif operation == "unlink":
                    path.unlink()
                else:
                    path.rmdir()
            yield f"cut before operation {at} ({log[at] if at < len(log) else 'end'}), {known} of {len(names)} names known, share {share}"
            shutil.rmtree(out)


def test_a_power_cut_at_every_operation(run, scenario, tmp_path):
    base, recorder = tmp_path / "base", Recorder()
    shutil.copytree(run, base)
    before, after = SCENARIOS[scenario]
    scenario(run, recorder)
    log = [(entry[0], *(base / part.relative_to(run) if isinstance(part, Path) else part for part in entry[1:])) for entry in recorder.log]
    reported = max(i for i, entry in enumerate(log) if entry[0] == "fsync") + 1  # of the run folder, behind the last rename
    assert log[reported - 1][1] == base
    seen: set = set()
    for at in range(len(log) + 1):
        for where in disks_after_a_power_cut(base, log, at, at >= reported, tmp_path / "disk", seen):
            check(tmp_path / "disk", after if at >= reported else before, where)
    assert len(seen) >= 50


def test_a_real_limit_on_file_sizes(tmp_path):
    """The system's own error instead of an injected one: RLIMIT_FSIZE in a child."""
    save(tmp_path, 5)
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            save_checkpoint(tmp_path, 10, {"model": {"w": torch.zeros(4096)}}, {"step": 10}, 2)
        except NoSpace:
            os._exit(DIED)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == DIED
    assert check(tmp_path, 5, "RLIMIT_FSIZE") == 5
