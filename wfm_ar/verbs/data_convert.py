"""`wfm data convert`: a data set of any known format to our own, or to LeRobot v3.0."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wfm_ar.errors import BadConfig
from wfm_ar.plain_text import print_lines
from wfm_ar.verbs.inputs import refuse_inputs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/data_convert.yaml, which explains them."""

    src: str
    out: Path
    format: Literal["episodes", "lerobot"]
    camera: str | None
    fps: float | None
    flip: str | None
    text: str
    lossless: bool
    crf: int
    overwrite: bool

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise BadConfig(f"crf: got {self.crf}, expected 0 to 51; fix: 16 is nearly transparent")


def run(settings: Settings) -> int:
    """Converts and says what came of it."""
    from wfm_ar.data.convert import convert_set
    from wfm_ar.data.formats import open_episodes
    from wfm_ar.data.set_folder import refuse_set

    refuse_inputs([settings.out], {"src": settings.src})
    refuse_set(settings.out, settings.overwrite)  # before the source is looked through
    episodes = open_episodes(settings.src, camera=settings.camera, fps=settings.fps, flip=settings.flip, text=settings.text)
    print_lines(episodes.about())
    keys = ("lossless", "crf", "overwrite")
    values = {key: getattr(settings, key) for key in keys}
    notes = convert_set(episodes, settings.out, settings.format, **values, on_progress=_say if sys.stderr.isatty() else None)
    for note in notes:
        print(note)
    print_lines(open_episodes(settings.out).about())
    return 0


def _say(done: int, total: int) -> None:
    print(f"\r{done}/{total} episodes converted", end="\n" if done == total else "", file=sys.stderr, flush=True)
