"""Small files that ask for a lot: what is packed a thousandfold, never written, sparse, or only declared.

Run `python tools/campaigns/small_files.py` from the checkout. Each is part of a data set of at most some megabytes on the disk, which
is checked, opened, read whole and converted with 2 GiB of address space to grow into. No verb may want more, or take a minute.
"""

import multiprocessing
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import hostile
import small_sets
from small_cases import Case
from small_hdf5 import hdf5_cases
from small_lerobot import lerobot_cases
from small_own import own_cases
from small_rlds import rlds_cases

from wfm_ar.data.check import check_data
from wfm_ar.data.convert import convert_set
from wfm_ar.data.formats import open_episodes
from wfm_ar.decoding import pool
from wfm_ar.errors import WfmError

MEMORY, SECONDS, DISK = 2 << 30, 60.0, 10 << 20


def cases() -> dict[str, Case]:
    return {**hdf5_cases(), **own_cases(), **lerobot_cases(), **rlds_cases()}


def use(root: Path, out: Path) -> float:
    """What the verbs do with a set -> seconds of the slowest. Refusals are fine, but not those of a machine that is too small."""
    slowest = 0.0

    def verb(call: Callable[[], object]) -> object:
        nonlocal slowest
        began = time.monotonic()
        try:
            return call()
        except WfmError as error:
            hostile.one_line(error)
            if "Unable to allocate" in str(error) or "emoryError" in str(error):
                raise hostile.Failure(f"wanted more memory: {error}") from None
            return None
        finally:
            slowest = max(slowest, time.monotonic() - began)

    told = verb(lambda: check_data(root, decode=True)) or []
    if any("Unable to allocate" in str(one) for one in told):
        raise hostile.Failure(f"wanted more memory: {told[0]}")
    episodes = verb(lambda: open_episodes(root))
    if episodes is not None:
        for format in ("episodes", "lerobot"):
            verb(lambda format=format: convert_set(episodes, out / format, format))
    return slowest


def _peak(pid: int | str) -> int:
    """The resident peak of a process in MiB; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:")), 0)


def _work(folder: Path, channel) -> None:
    """Uses one set after the other as their folders come, and says what became of them."""
    small_sets.MAKERS["episodes"](_new(folder / "warm"))  # what is imported once is no case's doing
    use(folder / "warm", _new(folder / "warm-out"))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    while root := channel.recv():
        try:
            slowest, told, bug = use(root, _new(folder / "out")), "stayed small", False
        except Exception as error:
            slowest, told, bug = 0.0, f"{type(error).__name__}: {str(error)[:300]}", hostile.is_bug(error)
        channel.send((told, slowest, bug, (_peak("self"), max(map(_peak, pool.child_ids()), default=0))))
    pool.close()


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    """`count` of the cases, drawn by the seed: made here, as that takes memory too, and used in a worker.

    A worker that waits too long, or is killed for its memory, is replaced.
    """
    makers = cases()
    names = list(makers) if count >= len(makers) else random.Random(seed).sample(list(makers), count)
    report, began = hostile.Report("small files", peaks_mib=(0, 0)), time.monotonic()
    context, worker = multiprocessing.get_context("spawn"), None
    for name in names:
        root = _new(folder / "set")
        makers[name](root)
        on_disk = sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())
        if worker is None:
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(folder / "work", theirs))
            worker.start()
            theirs.close()
        try:
            ours.send(root)
            if not ours.poll(5 * SECONDS):
                raise EOFError("no answer")
            told, slowest, bug, peaks = ours.recv()
        except (EOFError, OSError):
            worker.kill()
            worker.join()
            told, slowest, bug, peaks = f"the process did not come back (exit code {worker.exitcode})", 0.0, False, (0, 0)
            worker = None
        report.slowest, report.bugs = max(report.slowest, (slowest, name)), report.bugs + bug
        report.peaks_mib = tuple(map(max, report.peaks_mib, peaks))
        if slowest > SECONDS:
            told = f"a verb took {slowest:.0f} s"
        if on_disk > DISK:
            told = f"is {on_disk} bytes large itself"
        if told == "stayed small":
            report.outcomes[told] += 1
        else:
            report.failures.append(f"FAILED {name}: {told}")
    if worker is not None:
        ours.send(None)
        worker.join()
    report.seconds = time.monotonic() - began
    return report


if __name__ == "__main__":
    hostile.main(run, 1000, __doc__)
