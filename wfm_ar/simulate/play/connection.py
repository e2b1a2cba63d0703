"""One page's WebSocket: commands in, news and pictures out. A page that reads too slowly loses pictures, and nobody waits for it."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from aiohttp import WSCloseCode, WSMsgType, web

from wfm_ar.errors import BadPrompt
from wfm_ar.simulate.play.protocol import MESSAGE_BYTES, news, read_command
from wfm_ar.simulate.play.session import Session
from wfm_ar.simulate.play.stepper import Stepper

PICTURES, NEWS = 48, 500  # messages that wait for a slow page; of too many pictures the oldest go, too much news ends it
UNANSWERED = 64  # commands that may wait to be carried out
BEAT = 20.0  # seconds between two signs of life that a page is asked for
CALLED_OTHERWISE = {"auto": "set_auto", "beside": "set_beside"}


class Outbox:
    """What is on its way to a page. `put` may be called by any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._wake = loop, asyncio.Event()
        self._waiting: deque[str | bytes] = deque()
        self._pictures = self._news = 0
        self.lost = 0  # pictures
        self.flooded = self.closed = False

    def put(self, message: str | bytes) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: str | bytes) -> None:
        if self.closed:
            return
        if isinstance(message, bytes):
            self._pictures += 1
            if self._pictures > PICTURES:
                del self._waiting[next(i for i, one in enumerate(self._waiting) if isinstance(one, bytes))]
                self._pictures -= 1
                self.lost += 1
        else:
            self._news += 1
            self.flooded = self._news > NEWS
        self._waiting.append(message)
        self._wake.set()

    async def take(self) -> str | bytes:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        message = self._waiting.popleft()
        if isinstance(message, bytes):
            self._pictures -= 1
        else:
            self._news -= 1
        return message

    @property
    def empty(self) -> bool:
        return not self._waiting

    def close(self) -> None:
        self.closed = True
        self._waiting.clear()


class Connection:
    """From the first message to the last of one page."""

    def __init__(self, socket: web.WebSocketResponse, outbox: Outbox, session: Session, stepper: Stepper) -> None:
        self.socket, self.outbox, self.session, self.stepper = socket, outbox, session, stepper
        self._unanswered = 0

    @staticmethod
    def new_socket() -> web.WebSocketResponse:
        return web.WebSocketResponse(max_msg_size=MESSAGE_BYTES, heartbeat=BEAT, compress=False)

    async def serve(self, tell_often: Callable[[], Awaitable[None]]) -> None:
        """Until the page goes. `tell_often` runs beside."""
        tasks = [asyncio.ensure_future(one) for one in (self._send(), tell_often())]
        try:
            async for message in self.socket:
                if message.type is not WSMsgType.TEXT:
                    await self.socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"commands are text")
                    return
                self._take(message.data)
                if self._unanswered > UNANSWERED or self.outbox.flooded:
                    await self.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many commands at once")
                    return
        finally:
            self.outbox.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, text: str) -> None:
        try:
            command = read_command(text)
        except BadPrompt as error:
            self.outbox.put(news("error", text=str(error)))
            return
        do = command.pop("do")
        if do == "ping":
            self.outbox.put(news("pong", at=command["at"]))
            return
        self._unanswered += 1
        loop = asyncio.get_running_loop()
        done = self.stepper.carry_out(self.session, lambda: getattr(self.session, CALLED_OTHERWISE.get(do) or do)(**command))
        done.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._answered))

    def _answered(self) -> None:
        self._unanswered -= 1

    async def _send(self) -> None:
        while True:
            message = await self.outbox.take()
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
            else:
                await self.socket.send_str(message)
            if self.session.closed and self.outbox.empty:
                await self.socket.close(code=WSCloseCode.INTERNAL_ERROR, message=b"the session is closed")


class Rate:
    """Events a second, over the last few seconds."""

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, count: int) -> float:
        """`count`: of all events so far."""
        now = time.monotonic()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._seconds:
            self._seen.popleft()
        begun, before = self._seen[0]
        passed = now - begun
        return (count - before) / passed if passed > 0 else 0.0
