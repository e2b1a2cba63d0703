"""Soak `wfm play`: one page that drives on and on, its memory, its speed, and how soon it is back at any earlier step.

    python tools/campaigns/soak_play.py --world tabletop --frames 10000
    python tools/campaigns/soak_play.py --world tiny --frames 10000        random weights of the tests, one frame a latent

A client without a browser changes its keys every eighth picture and follows what comes. Times are those of the machine as it is then: the
load average is written beside them, and the processor time of a step does not hang on it.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np
from flat_stream import open_world, resident

from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import WfmError
from wfm_ar.rollout.find_world import samples_of
from wfm_ar.rollout.world import World
from wfm_ar.simulate.play.config import PlayConfig
from wfm_ar.simulate.play.protocol import unpacked
from wfm_ar.simulate.play.recorder import Recorder
from wfm_ar.simulate.play.server import Server
from wfm_ar.simulate.play.sources import Sources

EVERY = 1000  # frames between two readings of the memory
STEPS = 300  # the newest ones, which are gone back to
RETURNS = 30  # of them
MOST_GROWTH = 0.05  # of the resident size, from the reading on at which the session's memory is full


async def play(server: Server, address: str, frames: int, source: str) -> dict:
    """Drives one page for so many frames -> what was measured."""
    readings, returns, nodes, shown = [], [], [], 0
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{address}ws", max_msg_size=0) as socket:

        async def send(do: str, **keys) -> None:
            await socket.send_str(json.dumps({"do": do, **keys}))

        async def next_picture():
            while True:
                message = await socket.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    return unpacked(message.data)
                news = json.loads(message.data)
                if news["news"] in ("error", "ended"):
                    raise SystemExit(news["text"])

        await send("start", source=source, seed=0)
        await next_picture()
        await send("play", on=True)
        begun, worked, keys = time.monotonic(), time.process_time(), np.random.default_rng(0)
        channels = server.world.action_schema.channels
        while shown < frames:
            picture = await next_picture()
            shown += 1
            if picture.number == picture.count - 1:
                nodes.append(picture.node)
            if shown % 8 == 0:
                held = [float(keys.uniform(one.low, one.high)) for one in channels]
                await send("act", seq=shown, values=held)
            if shown % EVERY == 0:
                readings.append(round(resident(), 1))
        seconds, cpu = time.monotonic() - begun, time.process_time() - worked
        async with http.get(f"{address}healthz") as response:
            health = await response.json()
        await send("play", on=False)
        places = np.linspace(max(0, len(nodes) - STEPS), len(nodes) - 1, RETURNS).astype(int)
        for place in np.random.default_rng(1).permutation(places):
            began = time.monotonic()
            await send("go", node=nodes[place])
            while (await next_picture()).node != nodes[place]:
                pass
            returns.append(time.monotonic() - began)
    speeds = {"frames": shown, "frames_per_s": round(shown / seconds, 2), "cpu_ms_a_frame": round(1000 * cpu / shown, 2)}
    back = {"rewind_s_p50": round(float(np.median(returns)), 3), "rewind_s_most": round(max(returns), 3)}
    return speeds | back | {"resident_mib": readings, "health": health, "load": [round(one, 1) for one in os.getloadavg()]}


async def soak(world: World, name: str, frames: int, memory: int) -> dict:
    try:
        samples = open_episodes(samples_of(name))
    except WfmError:
        samples = None
    with tempfile.TemporaryDirectory() as out:
        config = PlayConfig(port=0, speed=16.0, memory=memory)
        server = Server(world, Sources(world, samples, None), Recorder(world, Path(out)), config)
        ready, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
        served = asyncio.ensure_future(server.serve(ready.set_result, stop))
        try:
            return await play(server, await ready, frames, "sample" if samples else "text")
        finally:
            stop.set()
            await served


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tabletop")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--memory", type=int, default=384, help="MiB a session")
    arguments = parser.parse_args()
    found = asyncio.run(soak(open_world(arguments.world), arguments.world, arguments.frames, arguments.memory))
    full = found["resident_mib"][len(found["resident_mib"]) // 2 :]
    growth = (max(full) - full[0]) / full[0] if full else 0.0
    print(json.dumps(found | {"growth": round(growth, 4)}, indent=1))
    return int(growth > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
