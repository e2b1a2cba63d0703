"""The end of `wfm train verdict=true`: the new world is measured on a few held-out clips, and what is wrong with it cannot be missed."""

import sys
from pathlib import Path

import numpy as np

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.errors import WfmError
from wfm_ar.evaluate.evaluate import HTML, evaluate
from wfm_ar.evaluate.settings import EvaluateConfig
from wfm_ar.evaluate.verdict import block
from wfm_ar.plain_text import print_lines
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.train_settings import Settings

FOLDER = "verdict"  # of a run
SHORT = 600.0  # seconds of a budget up to which fewer and shorter clips are looked at
WIDTH = 78  # of a warning's frame


def end_with_verdict(settings: Settings, world: Path, val_set: EpisodeSet, budget_s: float | None, rate: int) -> None:
    """Writes <run>/verdict and prints what it says; alarms go to stderr, framed. A world that cannot be measured is no failed training."""
    short = budget_s is not None and budget_s <= SHORT
    clips, most = (4, 9) if short else (16, 17)
    length = int(np.median([val_set.num_frames(i) for i in range(len(val_set))]))
    config = EvaluateConfig(
        split="val" if any(episode.split == "val" for episode in val_set) else "train",
        camera=settings.camera,
        fps=settings.fps,
        flip=settings.flip,
        text=settings.text,
        episodes=max(2, min(clips, len(val_set))),
        listen_episodes=clips,
        text_episodes=clips,
        tokenizer_episodes=clips,
        frames=max(1 + rate, 1 + (min(most, length) - 1) // rate * rate),
        speed_runs=0,
        demo=False,
        examples=2,
    )
    where = {"device": device_named(settings.device), "overwrite": True, "progress": sys.stderr.isatty()}
    try:
        verdict = evaluate(world, settings.data, settings.run / FOLDER, config, **where)["verdict"]
    except WfmError as error:
        print(f"no verdict: {error}", flush=True)
        return
    print_lines(block(verdict))
    print(f"the verdict is on {config.episodes} clips of {config.frames} frames; pictures: {settings.run / FOLDER / HTML}", flush=True)
    if verdict["alarms"]:
        print_lines(framed(verdict["alarms"]), file=sys.stderr, flush=True)


def framed(alarms: list[str]) -> str:
    """Warnings between two lines that nobody overlooks."""
    line = "!" * WIDTH
    return "\n".join([line, "WARNING: this world is not fit for use", *alarms, line])
