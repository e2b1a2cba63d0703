"""Makes a data set from a simulated world with worker processes: `make_dataset`.

Promises: episode i depends on (world, seed, frames, i) alone, so the same settings give the same bytes whatever the number
of workers; an interrupted run, called again, goes on where it stopped; a folder made with other settings is never touched
unless `overwrite=True`.
"""

import importlib.util
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from wfm_ar.data.claims import claim, holds_something
from wfm_ar.data.episodes import INDEX, write_episode, write_episodes
from wfm_ar.data.files import as_wfm_error, remove_dead_parts, write_atomic
from wfm_ar.data.schema_file import SCHEMA
from wfm_ar.data.splits import split_of
from wfm_ar.errors import BadConfig, BadData, MissingDependency, OutputExists, nearest
from wfm_ar.extras import how_to_install
from wfm_ar.progress_bar import ProgressBar
from wfm_ar.worlds.registry import SIMULATORS
from wfm_ar.worlds.simulator import Simulator

FORMAT = 1  # rises when the same settings would give other bytes
CRF = 16
AHEAD = 4  # episodes a worker that are handed out before they are waited for
SETTINGS, RECORDS = "make.json", "making.jsonl"  # the second exists only until the set is complete
FOLDERS = ("videos", "actions", "states")


def make_dataset(
    *,
    world: str = "tabletop",
    episodes: int,
    out: str | Path,
    frames: int = 33,
    seed: int = 0,
    workers: int = 2,
    val_fraction: float = 0.05,
    task: str | None = None,
    masks: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes `episodes` episodes of `frames` frames to the folder `out` and returns it. `task`: of all of them; None: a mixture.

    masks: the states of held-out episodes hold the simulator's segmentation too (masks, visible: see worlds.tabletop), for evaluation.

    Raises BadConfig for impossible settings, OutputExists if `out` holds something else, NoSpace on a full disk.
    """
    _check_settings(world, episodes, frames, seed, workers, val_fraction, task)
    package, extra = SIMULATORS[world].needs
    if importlib.util.find_spec(package) is None:
        raise MissingDependency(f"world {world}: needs the package {package}, expected it installed; fix: {how_to_install(extra)}")
    out = Path(out)
    settings = dict(format=FORMAT, world=world, episodes=episodes, frames=frames, seed=seed, val_fraction=val_fraction, crf=CRF)
    if task is not None:
        settings["task"] = task
    if masks:
        settings["masks"] = True
    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out}: exists and was not made by this command, expected a free name; fix: choose another")
    try:
        with claim(out / SETTINGS):
            _make_claimed(out, settings, workers, overwrite, progress)
    except OSError as error:
        raise as_wfm_error(error, out / RECORDS) from error
    return out


def _make_claimed(out: Path, settings: dict, workers: int, overwrite: bool, progress: bool) -> None:
    episodes = settings["episodes"]
    if not _prepare(out, settings, overwrite):
        with open(out / RECORDS, "ab") as file:
            done = _read_records(out / RECORDS)
            todo = [i for i in range(episodes) if i not in done]
            made = _make(todo, out, settings, workers)
            for record in _progress(made, len(done), episodes, progress):
                done[int(record["id"])] = record
                file.write(_line(record))
                file.flush()
            _finish(out, [done[i] for i in range(episodes)], settings["world"])


def _finish(out: Path, records: list[dict], world: str) -> None:
    for folder in ("", *FOLDERS):
        remove_dead_parts(out / folder)
    write_episodes(out, records, SIMULATORS[world].actions, overwrite=True)
    (out / RECORDS).unlink()


def _make(todo: list[int], out: Path, settings: dict, workers: int) -> Iterator[dict]:
    values = (*(settings[key] for key in ("seed", "frames", "val_fraction")), settings.get("task"), settings.get("masks", False))
    jobs = [(i, *values, str(out)) for i in todo]
    if not jobs:
        return
    # spawn: a forked OpenGL context or thread pool of the parent would not work in the child
    workers, spawn = min(workers, len(jobs)), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker, initargs=(settings["world"],)) as pool:
        try:
            later = iter(jobs)
            waiting = {pool.submit(_make_episode, job) for job in islice(later, AHEAD * workers)}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                waiting |= {pool.submit(_make_episode, job) for job in islice(later, len(done))}
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            told = f"{out}: a worker process died while it made an episode, expected it to live"
            raise BadConfig(f"{told}; fix: try workers=1; if that dies too, look at the memory and the OpenGL driver") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker_world: Simulator | Exception | None = None  # one world, with its renderer, for the life of a worker process; or why there is none


def _start_worker(world: str) -> None:
    """An error is kept and raised by the first episode: raised here, it would tell the parent nothing."""
    global _worker_world
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    try:
        _worker_world = SIMULATORS[world]()
    except Exception as error:
        _worker_world = error


def _make_episode(job: tuple[int, int, int, float, str | None, bool, str]) -> dict:
    if isinstance(_worker_world, Exception):
        raise _worker_world
    assert _worker_world is not None, "the worker has started"
    index, seed, frames, val_fraction, task, masks, out = job
    name = f"{index:06d}"
    split = split_of(name, val_fraction)
    masked = masks and split == "val"
    episode = _worker_world.record(seed, index, frames, task, masks=masked)
    return write_episode(
        Path(out),
        id=name,
        frames_THWC=episode.frames,
        fps=_worker_world.actions.rate_hz,
        split=split,
        text=episode.text,
        actions=episode.actions,
        state=episode.state,
        pack_state=masked,
        crf=CRF,
        overwrite=True,
        sync=False,  # an episode is made again in a blink, and `wfm data check` finds gaps
    )


def _prepare(out: Path, settings: dict, overwrite: bool) -> bool:
    """Makes the folder ready; True if the very set is there and complete. Raises OutputExists for anything else in it."""
    if holds_something(out):
        try:
            there = json.loads((out / SETTINGS).read_text())
        except (OSError, ValueError):
            raise OutputExists(f"{out}: exists and was not made by this command, expected a free name; fix: choose another") from None
        if there == settings:
            if (out / INDEX).exists() and not (out / RECORDS).exists():
                remove_dead_parts(out)
                return True
        elif not overwrite:
            keys = [key for key in there | settings if there.get(key) != settings.get(key)]
            changed = ", ".join(f"{key}={there.get(key)!r} not {settings.get(key)!r}" for key in keys)
            raise OutputExists(f"{out}: holds a set made with {changed}; fix: choose another out= or set overwrite=true")
        else:
            for name in (INDEX, RECORDS):  # first what would make the rest pass for a set; the settings stay until there are new ones
                (out / name).unlink(missing_ok=True)
    write_atomic(out / SETTINGS, _json(settings), overwrite=True)
    if not (out / RECORDS).exists():  # nothing is done yet: what is here is of an older set
        (out / SCHEMA).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(out / name, ignore_errors=True)
    for name in FOLDERS:
        (out / name).mkdir(exist_ok=True)
    return False


def _read_records(path: Path) -> dict[int, dict]:
    """Episodes an interrupted run finished. A half-written last line is cut off."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    try:
        records = [json.loads(line) for line in whole.splitlines()]
        return {int(record["id"]): record for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path}: not readable ({error}), expected the records of a stopped run; fix: delete the folder") from error


def _check_settings(world: str, episodes: int, frames: int, seed: int, workers: int, val_fraction: float, task: str | None) -> None:
    if world not in SIMULATORS:
        raise BadConfig(f"world: got {world!r}{nearest(world, SIMULATORS)}, expected one of {list(SIMULATORS)}; fix: name a known world")
    for name, value, low in (("episodes", episodes, 1), ("frames", frames, 2), ("seed", seed, 0), ("workers", workers, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise BadConfig(f"{name}: got {value!r}, expected a whole number >= {low}; fix: set {name}={low} or more")
    if not 0 <= val_fraction < 1:
        raise BadConfig(f"val_fraction: got {val_fraction!r}, expected 0 <= share < 1; fix: 0.05 is a good value")
    tasks = list(SIMULATORS[world].tasks)
    if task is not None and task not in tasks:
        raise BadConfig(f"task: got {task!r}{nearest(str(task), tasks)}, expected null or one of {tasks}; fix: leave it out for a mixture")


def _progress(records: Iterator[dict], done: int, total: int, show: bool) -> Iterator[dict]:
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with ProgressBar(*columns, disable=not show) as bar:
        task = bar.add_task("episodes", total=total, completed=done, rate="")
        for record in records:
            yield record
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed or 0.0
            bar.update(task, advance=1, rate=f"{speed:.1f}/s")


def _line(record: dict) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _json(data: dict) -> bytes:
    return json.dumps(data, indent=2).encode() + b"\n"
