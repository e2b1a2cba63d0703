"""`evaluate`: everything that is measured of a world on held-out episodes, as report.json, report.html and table.md.

Nothing is picked: the episodes are the first of the held-out split in file order. What cannot be measured on a data set or a
world is named with its reason.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wfm_ar import __version__
from wfm_ar.data.claims import claim, whole_files
from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.files import refuse_existing, sha256_of, write_atomic
from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadConfig, BadData, OutputExists
from wfm_ar.evaluate.bars import judge, markdown_table
from wfm_ar.evaluate.bench import Bench
from wfm_ar.evaluate.control import parse_push
from wfm_ar.evaluate.generic import generic_sections
from wfm_ar.evaluate.heldout import HeldOut
from wfm_ar.evaluate.report import render_report
from wfm_ar.evaluate.sections import (
    action_section,
    free_run_section,
    object_section,
    prediction_section,
    rollout_section,
    speed_section,
    tokenizer_section,
)
from wfm_ar.evaluate.settings import GUIDANCE, SAMPLING, EvaluateConfig
from wfm_ar.evaluate.text_following import text_section
from wfm_ar.evaluate.verdict import judge_world
from wfm_ar.evaluate.workers import Workers
from wfm_ar.machine import cores, cpu_name
from wfm_ar.progress_bar import ProgressBar
from wfm_ar.rollout.find_world import SETTINGS, find_world
from wfm_ar.rollout.robots import fitted, robots_of
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world import World, load_world
from wfm_ar.schema import same_rate
from wfm_ar.shapes import latent_frames

NO_OBJECTS = "needs tabletop episodes, square, of one robot, whose state says where the objects and the peg are (names, object_xy, peg_xy)"
JSON, HTML, TABLE = "report.json", "report.html", "table.md"  # the table is what a README or model card shows
FORMAT = 3  # rises when a number of report.json changes its meaning


def evaluate(
    world: str | Path,
    data: str | Path,
    out: str | Path,
    config: EvaluateConfig | None = None,
    *,
    sampling: SamplingConfig | None = None,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures `world` (a shipped world's name or a folder) on the data set `data` and writes the reports into the folder `out`.

    sampling: how tokens are drawn, in place of what `config` says; what is None in it is the world's own, as in `config`.
    Returns the content of report.json. Raises BadCheckpoint, BadData, BadClip, BadActions or BadConfig for what does not fit
    together, OutputExists where there is a report already, NoSpace on a full disk.
    """
    config, out = config or EvaluateConfig(), Path(out)
    if sampling is not None:
        config = replace(config, **asdict(sampling))
    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out}: is a file, expected a folder for the reports; fix: choose another out=")
    with claim(out / JSON):
        for name in (JSON, HTML, TABLE):
            refuse_existing(out / name, overwrite)
        report, sheets, fps = _measured(world, data, config, device, progress)
        with whole_files(out / JSON, overwrite=overwrite) as part:
            write_atomic(part / HTML, render_report(report, sheets, fps=fps).encode())
            write_atomic(part / TABLE, markdown_table(report["bars"]).encode())
            write_atomic(part / JSON, json.dumps(report, indent=1, allow_nan=False).encode() + b"\n")
    return report


def _measured(
    world: str | Path, data: str | Path, config: EvaluateConfig, device: torch.device | str, progress: bool
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """-> (the content of report.json, what the page shows by section, frames a second)."""
    clock = time.monotonic()
    folder, started = find_world(world), datetime.now(UTC).isoformat(timespec="seconds")
    loaded = load_world(world, device)
    loaded.refuse_context("evaluate")
    if config.workers > 1 and torch.device(device).type != "cpu":
        raise BadConfig(f"workers: got {config.workers} with device={device}, expected 1: they share a CPU; fix: a larger batch")
    own = loaded.measured(config.top_k)
    config = replace(config, **{name: own[name] for name in (*SAMPLING, *GUIDANCE) if getattr(config, name) is None})
    latent_frames(config.frames, loaded.rate)
    view = {"camera": config.camera, "fps": config.fps, "flip": config.flip, "text": config.text}
    episodes = fitted(open_episodes(data, config.split, **view), loaded, config.embodiment)
    _refuse_other_rates(episodes, loaded)
    size = {"num_frames": config.frames, "height": loaded.height, "width": loaded.width, "crop": loaded.crop}
    clips, push_set = HeldOut(episodes, count=config.episodes, **size), _pushes(loaded, episodes)
    pushes = HeldOut(push_set, count=config.text_episodes, **size) if push_set else None

    report: dict[str, Any] = {"format": FORMAT, "world": loaded.name, "world_sha256": sha256_of(folder / SETTINGS), "data": _names(data)}
    report |= {"started": started, "seconds": 0.0, "episodes": len(clips), "too_short": clips.too_short}
    report |= {"settings": asdict(config), "versions": _versions(), "machine": _machine(), "not_measured": {}}
    missing, sheets = report["not_measured"], {}
    with ExitStack() as context:
        bar = context.enter_context(_bar(progress))
        workers = context.enter_context(Workers(folder, config.workers)) if config.workers > 1 else None
        bench = Bench(world=loaded, config=config, clips=clips, track=partial(_track, bar), robots=robots_of(loaded), workers=workers)
        report["tokenizer"] = tokenizer_section(bench, HeldOut(episodes, count=config.tokenizer_episodes, **size))
        report["prediction"] = prediction_section(bench)
        driven = _driven(loaded, clips)
        if not driven.indices:
            missing |= dict.fromkeys(
                ("objects", "free_run", "rollout", "refined", "actions"), f"no held-out episode of {config.frames} frames has actions"
            )
        else:
            bench = replace(bench, clips=driven)
            several = len({episodes[i].embodiment for i in driven.indices}) > 1
            true = rollout_section(bench)
            report["rollout"], report["refined"], sheets["rollout"] = true.rollout, true.refined, true.sheets
            if true.tally is None:
                missing["objects"] = NO_OBJECTS
            else:
                report["objects"], sheets["objects"] = object_section(bench, true.tally), true.strips
            if not config.free_runs:
                missing["free_run"] = "not asked for; free_runs=4 rolls four episodes on for free_frames frames each"
            elif true.tally is None or true.trials is None or loaded.parts.action_schema is None or several:
                missing["free_run"] = NO_OBJECTS
            else:
                report["free_run"], sheets["free_run"] = free_run_section(bench)
            if true.refined is None:
                missing["refined"] = "this world has no diffusion decoder"
            if loaded.parts.action_schema is None:
                missing["actions"] = "this world takes no actions"
            elif true.trials is None or len(driven) < 2 or loaded.height != loaded.width or several:
                missing["actions"] = "needs two or more tabletop episodes, square, of one robot, whose state says where the peg is (peg_xy)"
            else:
                report["actions"], sheets["actions"] = action_section(bench, true)
        for name, found in generic_sections(bench, [episode.text for episode in episodes if episode.text]).items():
            if isinstance(found, str):
                missing[name] = found
            else:
                report[name] = found
        if pushes is None:
            missing["text"] = "this world was trained without texts, or no held-out episode is a tabletop push with its state"
        else:
            report["text"], sheets["text"] = text_section(bench, pushes)
        with tempfile.TemporaryDirectory() as scratch:
            demo = [sys.executable, "-m", "wfm_ar", "demo", f"world={folder}", f"out={scratch}/demo", "device=cpu"] if config.demo else None
            report["speed"] = speed_section(bench, demo)
    report["seconds"] = time.monotonic() - clock
    report["bars"] = judge(report)
    report["verdict"] = judge_world(report).to_json()
    return report, sheets, loaded.fps


def _names(data: str | Path) -> str:
    """The last part of a data set's path, or of each of several."""
    return os.pathsep.join(Path(part).name for part in str(data).split(os.pathsep))


def _refuse_other_rates(episodes: EpisodeSet, world: World) -> None:
    """Clips without actions say their rate themselves; that of clips with actions is their schema's, which was compared."""
    if episodes.schema is not None:
        return
    for episode in episodes:
        if not same_rate(episode.fps, world.fps):
            raise BadData(
                f"{episode.video}: got {episode.fps:g} frames a second, expected the world's {world.fps:g}: its frames would be compared "
                f"with others' places in time; fix: fps={world.fps:g} thins faster clips"
            )


def _driven(world: World, clips: HeldOut) -> HeldOut:
    """The clips to roll out: those with actions, or all of them in a world that takes none."""
    return clips if world.parts.action_schema is None else clips.where(lambda episode: episode.actions is not None)


def _pushes(world: World, episodes: EpisodeSet) -> EpisodeSet | None:
    """The episodes that text following can be measured on; None if there are none."""
    chosen = tuple(episode for episode in episodes.episodes if parse_push(episode.text) and episode.state and episodes.format == "episodes")
    return replace(episodes, episodes=chosen) if chosen and world.parts.text_tokenizer is not None else None


def _versions() -> dict[str, str]:
    names = ("numpy", "torch", "av", "safetensors")
    return {"wfm-ar": __version__, "python": platform.python_version()} | {name: version(name) for name in names}


def _machine() -> dict[str, Any]:
    about = {"name": f"{cpu_name()}, {cores()} cores", "cpu": cpu_name(), "cores": cores()}
    return about | {"threads": torch.get_num_threads(), "system": platform.system()}


def _bar(show: bool) -> ProgressBar:
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return ProgressBar(*columns, disable=not show)


def _track(bar: Progress, items: Iterable[Any], name: str, total: int) -> Iterator[Any]:
    task = bar.add_task(name, total=total)
    for item in items:
        yield item
        bar.advance(task)
