"""A server of `wfm play` with a tiny world, and a client of it, for the tests."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import tiny_world as tiny

from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import write_video
from wfm_ar.rollout.world import World
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.simulate.play.config import PlayConfig
from wfm_ar.simulate.play.protocol import Picture, unpacked
from wfm_ar.simulate.play.recorder import Recorder
from wfm_ar.simulate.play.server import Server
from wfm_ar.simulate.play.sources import Sources

PATIENCE = 30.0  # seconds, on a machine that is very busy
ARM = ActionSchema(
    channels=tuple(ActionChannel(name=f"joint_{i}", unit="rad", low=-1.0, high=1.0, bins=9) for i in range(6))
    + (ActionChannel(name="gripper", unit="", low=0, high=1, bins=2, discrete=True),),
    rate_hz=10.0,
)


def tiny_world(**parts: Any) -> World:
    return World(tiny.make_parts(**parts), name="tiny")


class Player:
    """One page. Messages are kept in the order in which they came."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.waiting, self.pictures, self.all_news = socket, [], [], []

    async def send(self, do: str, **keys: Any) -> None:
        await self.socket.send_str(json.dumps({"do": do, **keys}))

    async def _next(self) -> Picture | dict | None:
        message = await self.socket.receive(PATIENCE)
        if message.type is aiohttp.WSMsgType.BINARY:
            self.pictures.append(unpacked(message.data))
            return self.pictures[-1]
        if message.type is aiohttp.WSMsgType.TEXT:
            self.all_news.append(json.loads(message.data))
            return self.all_news[-1]
        return None

    async def until(self, wanted: Callable[[Picture | dict], bool]) -> Any:
        """Reads on to the first message that is wanted."""
        end = time.monotonic() + PATIENCE
        while (message := await self._next()) is not None and time.monotonic() < end:
            if wanted(message):
                return message
        raise AssertionError(f"the server closed ({self.socket.close_code}) or was silent before that came; news: {self.all_news[-3:]}")

    async def news(self, what: str) -> dict:
        return await self.until(lambda one: isinstance(one, dict) and one["news"] == what)

    async def picture(self, kind: int = 0) -> Picture:
        return await self.until(lambda one: isinstance(one, Picture) and one.kind == kind)

    async def last_of_step(self) -> Picture:
        return await self.until(lambda one: isinstance(one, Picture) and one.kind == 0 and one.number == one.count - 1)

    async def start(self, source: str = "text", **keys: Any) -> Picture:
        """The first picture of a new beginning."""
        await self.send("start", source=source, **keys)
        await self.news("started")
        return await self.last_of_step()

    async def step(self, values: list[float] | None = None, seq: int = 0) -> Picture:
        """The last picture of one step."""
        if values is not None:
            await self.send("act", seq=seq, values=values)
        await self.send("step")
        return await self.last_of_step()


class Served:
    """A server that runs, and how to reach it."""

    def __init__(self, server: Server, http: aiohttp.ClientSession) -> None:
        self.server, self.http, self.address = server, http, server.address.partition("?")[0].rstrip("/")

    @asynccontextmanager
    async def player(self, **headers: str) -> AsyncIterator[Player]:
        token = self.server.access.token or ""
        async with self.http.ws_connect(f"{self.address}/ws?token={token}", headers=headers, max_msg_size=0) as socket:
            player = Player(socket)
            player.welcome = await player.news("welcome")
            yield player


@asynccontextmanager
async def serving(world: World, out: Path, *, data: Path | None = None, **config: Any) -> AsyncIterator[Served]:
    episodes = None if data is None else open_episodes(data)
    config = PlayConfig(**{"port": 0, "speed": 16.0, "host": "127.0.0.1"} | config)
    server = Server(world, Sources(world, None, episodes), Recorder(world, out), config)
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    ended = asyncio.ensure_future(server.serve(ready.set_result, stop))
    await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        ended.result()
    try:
        async with aiohttp.ClientSession() as http:
            yield Served(server, http)
    finally:
        stop.set()
        await ended


def run(scenario: Coroutine) -> None:
    asyncio.run(asyncio.wait_for(scenario, 2 * PATIENCE))


def clips_folder(folder: Path) -> Path:
    """A data set of two clips of the tiny world's size."""
    folder.mkdir(parents=True)
    for i in range(2):
        write_video(folder / f"clip{i}.mp4", tiny.make_video(9, seed=i), 10)
    return folder


def pixels(png: bytes) -> np.ndarray:
    from wfm_ar.simulate.play.recorder import pixels_of

    return pixels_of([png])[0]
