"""The server of `wfm play`: the page and its files, a WebSocket a session, uploads, pictures and clips, and /healthz.

    GET  /                                 the page (no token needed: it holds no secret)
    GET  /page/NAME                        its style, scripts and icon
    GET  /ws                               a session, for as long as it is open; see protocol.py
    POST /upload?session=ID&name=FILE      a picture or clip to start from -> {"id": ...}
    GET  /picture?session=ID&node=N&number=K   a picture of the session's tree, PNG
    GET  /clip?name=FILE                   a clip that was asked for, once it is there
    GET  /healthz                          JSON: frames a second, latencies, sessions, memory

Whatever needs one takes the token as `token=`. The only files that import aiohttp are this one and connection.py.
"""

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.errors import BadConfig, MissingDependency, WfmError
from wfm_ar.extras import how_to_install

try:
    from aiohttp import WSCloseCode, web
except ImportError as error:
    raise MissingDependency(f"play: the package aiohttp is missing; fix: {how_to_install('play')}") from error

from wfm_ar.rollout.world import World
from wfm_ar.simulate.play.access import HEADERS, Access
from wfm_ar.simulate.play.config import PlayConfig
from wfm_ar.simulate.play.connection import Connection, Outbox, Rate
from wfm_ar.simulate.play.protocol import MESSAGE_BYTES, VERSION, news
from wfm_ar.simulate.play.recorder import Recorder
from wfm_ar.simulate.play.session import Session
from wfm_ar.simulate.play.sources import Sources
from wfm_ar.simulate.play.stepper import Stepper

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
UPLOAD_BYTES = 64 << 20
TOLD_EVERY = 1.0  # seconds between two `stats`
CLOSING = 5.0  # seconds that pages have to go when the server ends


class Server:
    """One world, served until it is told to stop."""

    def __init__(self, world: World, sources: Sources, recorder: Recorder, config: PlayConfig) -> None:
        self.world, self.sources, self.recorder, self.config = world, sources, recorder, config
        self.access, self.stepper = Access(config.host), Stepper()
        self.sessions: dict[str, tuple[Session, Outbox, web.WebSocketResponse]] = {}
        self.address = ""  # once it listens
        self._uploading = asyncio.Semaphore(1)
        self._begun, self._rate, self._shown_before = time.monotonic(), Rate(), 0
        self._files = {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in PAGE.iterdir() if path.suffix in TYPES}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=UPLOAD_BYTES, middlewares=[self._guard])
        app.router.add_get("/", self._page, allow_head=False)
        app.router.add_get("/page/{name}", self._page, allow_head=False)
        app.router.add_get("/ws", self._play, allow_head=False)
        app.router.add_post("/upload", self._upload)
        app.router.add_get("/picture", self._picture, allow_head=False)
        app.router.add_get("/clip", self._clip, allow_head=False)
        app.router.add_get("/healthz", self._health, allow_head=False)
        return app

    async def serve(self, ready: Callable[[str], None], stop: asyncio.Event | None = None) -> None:
        """Listens, says where with `ready(address)`, and ends when `stop` is set or the process is asked to: sessions are closed, and what
        was being recorded is on disk. Raises BadConfig where it cannot listen."""
        stop = stop or asyncio.Event()
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=CLOSING)
        await runner.setup()
        loop = asyncio.get_running_loop()
        try:
            site = web.TCPSite(runner, self.config.host, self.config.port)
            try:
                await site.start()
            except OSError as error:
                told = f"play: cannot listen on {self.config.host} port {self.config.port} ({error.strerror or error})"
                raise BadConfig(f"{told}, expected a free port; fix: port=0 takes any") from None
            self.stepper.begin()
            port = runner.addresses[0][1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self.address = f"http://{host}:{port}/" + (f"?token={self.access.token}" if self.access.token else "")
            with _stopped_by_signals(loop, stop):
                ready(self.address)
                await stop.wait()
                for _, _, socket in list(self.sessions.values()):
                    await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends")
                await loop.run_in_executor(None, self.stepper.end)
                await loop.run_in_executor(None, self.recorder.close)
        finally:
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        page = request.path == "/" or request.path.startswith("/page/")
        if refusal := self.access.refusal(request.headers, request.query.get("token", ""), open_to_all=page):
            return web.json_response({"error": refusal}, status=403, headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return web.json_response({"error": error.text or error.reason}, status=error.status, headers=HEADERS)
        except WfmError as error:
            return web.json_response({"error": str(error)}, status=400, headers=HEADERS)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _page(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info.get("name", "index.html"))
        if found is None:
            raise web.HTTPNotFound(text="no such file")
        return web.Response(body=found[0], content_type=found[1], charset="utf-8")

    async def _play(self, request: web.Request) -> web.StreamResponse:
        socket = Connection.new_socket()
        await socket.prepare(request)
        if len(self.sessions) >= self.config.sessions:
            told = f"{len(self.sessions)} sessions are open, expected at most {self.config.sessions}; fix: close one, or sessions=..."
            await socket.send_str(news("ended", text=told))
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too many sessions")
            return socket
        name, outbox = secrets.token_urlsafe(12), Outbox(asyncio.get_running_loop())
        bounds: dict[str, Any] = dict(speed=self.config.speed, most_bytes=self.config.memory << 20)
        session = Session(self.world, self.sources, self.recorder, outbox.put, **bounds)
        self.sessions[name] = session, outbox, socket
        self.stepper.call(lambda: self.stepper.sessions.append(session))
        outbox.put(news("welcome", session=name, **self._about()))
        try:
            await Connection(socket, outbox, session, self.stepper).serve(partial(self._tell_often, session, outbox))
        finally:
            del self.sessions[name]
            self._shown_before += session.shown
            self.stepper.call(partial(self._close, session))
        return socket

    def _close(self, session: Session) -> None:
        """On the stepper's thread."""
        if session in self.stepper.sessions:
            self.stepper.sessions.remove(session)
            session.close()

    async def _tell_often(self, session: Session, outbox: Outbox) -> None:
        rate = Rate()
        while True:
            waited, made = percentiles(session.waited), percentiles(session.made)
            shown = {"fps": round(rate.update(session.shown), 1), "lost": outbox.lost, "waited_ms": waited, "made_ms": made}
            timeline = session.timeline
            kept = {"steps": len(timeline.nodes), "forgotten": timeline.forgotten, "mib": round(timeline.nbytes / 2**20, 1)}
            outbox.put(news("stats", **shown, **kept, sessions=len(self.sessions), memory_mib=memory_mib()))
            await asyncio.sleep(TOLD_EVERY)

    def _about(self) -> dict[str, Any]:
        """What the page is told first."""
        world, schema = self.world, self.world.action_schema
        channels = [] if schema is None else schema.channels
        named = [{key: getattr(one, key) for key in ("name", "unit", "low", "high", "discrete", "constant", "motion")} for one in channels]
        about = {"name": world.name, "width": world.width, "height": world.height, "fps": world.fps, "rate": world.rate, "channels": named}
        can = {"text": world.takes_text, "imagine": world.imagines_actions, "refine": world.parts.diffusion_decoder is not None}
        limits = {"upload_bytes": UPLOAD_BYTES, "message_bytes": MESSAGE_BYTES, "sessions": self.config.sessions}
        paths = {"episodes": str(self.recorder.set_path), "clips": str(self.recorder.folder)}
        words = getattr(world.parts.text_tokenizer, "words", None)
        return {
            "version": VERSION,
            "world": about,
            "can": can,
            "sources": self.sources.offered(),
            "words": sorted(words or ()),
            "speed": self.config.speed,
            "limits": limits,
            "paths": paths,
        }

    async def _upload(self, request: web.Request) -> web.Response:
        self._session_of(request)
        async with self._uploading:  # one at a time is held in memory
            content = await request.read()  # client_max_size is its limit
            name = await asyncio.get_running_loop().run_in_executor(None, self.sources.upload, content, request.query.get("name", ""))
        return web.json_response({"id": name})

    async def _picture(self, request: web.Request) -> web.Response:
        session = self._session_of(request)
        try:
            node, number = (int(request.query.get(key, "")) for key in ("node", "number"))
            pictures = session.timeline.nodes[node].pictures
            return web.Response(body=pictures[number % len(pictures)], content_type="image/png")
        except (ValueError, LookupError, ZeroDivisionError):
            raise web.HTTPNotFound(text="no such picture, or it is forgotten") from None

    async def _clip(self, request: web.Request) -> web.StreamResponse:
        path = self.recorder.folder / Path(request.query.get("name", "")).name
        if path.suffix not in (".mp4", ".gif") or not path.is_file():
            raise web.HTTPNotFound(text="no such clip")
        return web.FileResponse(path, headers=HEADERS | {"Content-Disposition": f'attachment; filename="{path.name}"'})

    async def _health(self, request: web.Request) -> web.Response:
        sessions = [session for session, _, _ in self.sessions.values()]
        shown = self._shown_before + sum(session.shown for session in sessions)
        return web.json_response(
            {
                "world": self.world.name,
                "frames_per_s": round(self._rate.update(shown), 1),
                "frames": shown,
                "key_to_picture_ms": percentiles(seconds for session in sessions for seconds in tuple(session.waited)),
                "step_ms": percentiles(seconds for session in sessions for seconds in tuple(session.made)),
                "sessions": len(sessions),
                "most_sessions": self.config.sessions,
                "memory_mib": memory_mib(),
                "kept_mib": round(sum(session.timeline.nbytes for session in sessions) / 2**20, 1),
                "episodes": len(self.recorder.episodes),
                "up_s": round(time.monotonic() - self._begun, 1),
            }
        )

    def _session_of(self, request: web.Request) -> Session:
        found = self.sessions.get(request.query.get("session", ""))
        if found is None:
            raise web.HTTPNotFound(text="no such session; fix: reload the page")
        return found[0]


@contextlib.contextmanager
def _stopped_by_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event):
    """The first SIGINT or SIGTERM sets `stop`; the next is what it always was."""
    taken = []

    def asked() -> None:
        stop.set()
        for name in taken:
            loop.remove_signal_handler(name)
        taken.clear()

    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not the main thread, or no POSIX system
            loop.add_signal_handler(name, asked)
            taken.append(name)
    try:
        yield
    finally:
        for name in taken:
            loop.remove_signal_handler(name)


def percentiles(seconds: Any) -> dict[str, float | None]:
    """p50 and p95 in milliseconds."""
    values = list(seconds)
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(values, (50, 95)) * 1000
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def memory_mib() -> float | None:
    """What of the machine's memory the process holds; None where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        return None
    return None
