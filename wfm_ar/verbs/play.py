"""`wfm play`: a world in the browser, to drive, prompt, rewind, branch and record."""

import asyncio
import webbrowser
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadData
from wfm_ar.rollout.find_world import find_world, samples_of
from wfm_ar.simulate.play.config import PlayConfig
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.outputs import new_output


@dataclass(frozen=True, kw_only=True)
class Settings(PlayConfig):
    """The keys of conf/play.yaml, which explains them."""

    world: str
    data: Path | None
    camera: str | None
    flip: str | None
    embodiment: str | None
    out: Path | None
    open: bool
    device: Literal["auto", "cpu", "cuda"]


def run(settings: Settings) -> int:
    """Serves until it is interrupted, which is its ordinary end."""
    find_world(settings.world)  # which raises
    data = None if settings.data is None else open_episodes(settings.data, camera=settings.camera, flip=settings.flip)
    try:
        samples = open_episodes(samples_of(settings.world))
    except BadData:  # a world of one's own may have none
        samples = None
    from wfm_ar.rollout.world import load_world  # brings torch, a second and more: once all that can be wrong without it is right
    from wfm_ar.simulate.play.recorder import Recorder
    from wfm_ar.simulate.play.server import Server
    from wfm_ar.simulate.play.sources import Sources

    world = load_world(settings.world, device_named(settings.device), embodiment=settings.embodiment)
    world.refuse_context("play")
    recorder = Recorder(world, settings.out or new_output("play", ""))
    config = PlayConfig(**{field.name: getattr(settings, field.name) for field in fields(PlayConfig)})
    server = Server(world, Sources(world, samples, data), recorder, config)

    def ready(address: str) -> None:
        print(f"{address}  (Ctrl+C ends it; recordings go to {recorder.folder})", flush=True)
        if settings.open:
            webbrowser.open(address)

    asyncio.run(server.serve(ready))
    if recorder.episodes:
        print(f"{recorder.set_path}: LeRobot v3.0, {len(recorder.episodes)} played episode{'s' * (len(recorder.episodes) != 1)}")
    return 0
