"""One player: a stream of the world, the timeline of what it showed, and what the player wants of it now.

Everything here happens on the thread that steps the worlds (stepper.py), and what there is to tell goes to `tell`, as protocol.py has it.
It knows no network and no clock but the time it is told.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from wfm_ar.errors import BadConfig, BadPrompt, WfmError
from wfm_ar.rollout.stream import WorldStream
from wfm_ar.rollout.world import World
from wfm_ar.simulate.play.beside import Simulator, distances
from wfm_ar.simulate.play.protocol import MOST_FUTURES, MOST_STEPS, SIMULATOR, WORLD, Picture, news, refuse_range
from wfm_ar.simulate.play.recorder import Recorder, png_of
from wfm_ar.simulate.play.sources import Sources
from wfm_ar.simulate.play.timeline import Node, Timeline

Tell = Callable[[str | bytes], None]
SLOWEST, FASTEST = 0.1, 16.0  # times the world's own pace
KEPT = 512  # numbers that percentiles are of


@dataclass(kw_only=True)
class Imagined:
    """One of the futures that are being imagined: a branch that nobody drives."""

    stream: WorldStream
    node: int
    left: int  # steps


class Session:
    """The methods named like commands carry them out; each raises WfmError for what cannot be and changes nothing then."""

    def __init__(self, world: World, sources: Sources, recorder: Recorder, tell: Tell, *, speed: float, most_bytes: int) -> None:
        self.world, self.sources, self.recorder, self.tell = world, sources, recorder, tell
        self.most_bytes, self.times = most_bytes, speed
        self.stream: WorldStream | None = None
        self.timeline = Timeline(most_bytes)
        self.node: Node | None = None  # where it stands
        self.playing = self.auto = self.refine = self.beside = self.closed = False
        self.text: str | None = None
        self.seed, self.seq = 0, 0
        self._step_seq = 0  # `seq` when the step began that is being made, or was made last
        self.waits = False  # one step is wanted, though it does not play
        self.next_at = 0.0
        self.futures_left: list[Imagined] = []
        self.recording: int | None = None  # the node it began at
        self.simulator: Simulator | None = None
        self.waited: deque[float] = deque(maxlen=KEPT)  # seconds from an `act` to the first picture made from it
        self.made: deque[float] = deque(maxlen=KEPT)  # seconds a step
        self.shown = 0  # pictures
        self._acted_at: float | None = None  # when the oldest `act` that no step has been made from came
        self._step_acted_at: float | None = None  # the same of the step that is being made
        self._states: dict[int, np.ndarray] = {}  # of the simulator, by node
        self._told_forgotten = 0
        channels = () if world.action_schema is None else world.action_schema.channels
        self._low, self._high = (np.array([getattr(c, end) for c in channels], np.float32) for end in ("low", "high"))
        self._rest = np.clip(np.zeros(len(channels), np.float32), self._low, self._high)
        self._values, self._tapped = self._rest.copy(), self._rest.copy()

    # -- commands --

    def start(self, source: str, id: str | None = None, text: str | None = None, seed: int = 0, refine: bool = False) -> None:
        """Begins anew. text: None takes that of the source; "" none."""
        found = self.sources.find(source, id, seed)
        words = (found.text if text is None else text) or None
        words = words if self.world.takes_text else None
        stream = self.world.start(video=found.frames, text=words, seed=seed, refine=refine)
        frames = stream.given_frames if found.frames is not None else stream.step()
        self._stop_recording()
        self._leave_simulator()
        self.simulator, self.beside = found.simulator, found.simulator is not None
        self.stream, self.text, self.seed, self.refine = stream, words, seed, refine
        self.timeline, self.futures_left, self._states, self._told_forgotten = Timeline(self.most_bytes), [], {}, 0
        self.node = self._add(None, frames, None, "absent", stream, given=0 if found.frames is None else len(frames))
        if self.simulator is not None:
            self._states[self.node.number] = self.simulator.state()
        self._release_keys()
        self.tell(news("started", node=self.node.number, told=found.told, beside=self.beside, **self.settings()))
        self._show(self.node, len(frames) - 1)
        if self.simulator is not None:
            self._show_real(self.simulator.picture()[None], frames[-1:])

    def act(self, seq: int, values: list[float]) -> None:
        if len(values) != len(self._rest):
            raise BadPrompt(f"act: got {len(values)} values, expected {len(self._rest)}, one a channel; fix: send them all")
        self.seq = seq
        self._values = np.clip(np.asarray(values, np.float32), self._low, self._high)
        self._tapped = np.where(self._values != self._rest, self._values, self._tapped)  # a key that was only tapped counts too
        if self._acted_at is None:
            self._acted_at = time.perf_counter()
        if self.auto and (self._values != self._rest).any():
            self.auto = False
            self.tell(news("auto", on=False, why="a key was pressed"))

    def play(self, on: bool) -> None:
        self._started()
        self.playing, self.next_at = on, 0.0
        self.tell(news("play", on=on))

    def step(self) -> None:
        self._started()
        self.playing, self.waits = False, True
        self.tell(news("play", on=False))

    def speed(self, times: float) -> None:
        refuse_range("speed", times, SLOWEST, FASTEST)
        self.times = times
        self.tell(news("speed", times=times))

    def set_auto(self, on: bool) -> None:
        if on and not self.world.imagines_actions:
            raise BadConfig("auto: got true, but this world imagines no actions, expected false; fix: drive it")
        self.auto = on
        self.tell(news("auto", on=on))

    def set(self, **changed: Any) -> None:
        """Goes on from here under another text, seed or settings."""
        stream, node = self._started()
        if "text" in changed:
            changed["text"] = changed["text"] or None
        mark, before = self.timeline.mark_of(node.number)
        self.stream = self.world.resume(stream, mark, before, **changed)
        self.text, self.seed = changed.get("text", self.text), changed.get("seed", self.seed)
        self.tell(news("settings", **self.settings()))

    def go(self, node: int) -> None:
        """Back (or over) to a step, and on from there."""
        stream, _ = self._started()
        mark, before = self.timeline.mark_of(node)
        self.stream = self.world.resume(stream, mark, before)
        self.timeline.state_again(node, self.stream.mark())
        self.node = self.timeline.nodes[node]
        self.text, self.seed = self.node.text, mark.row.seed
        self.playing = self.waits = False
        self._release_keys()
        self.tell(news("went", node=node, step=self.node.step, **self.settings()))
        self._show(self.node, len(self.node.pictures) - 1)
        if self.simulator is not None:
            self.beside = node in self._states
            if self.beside:
                self.simulator.restore(self._states[node])
            self.tell(news("beside", on=self.beside, why="" if self.beside else "it did not run here"))

    def futures(self, count: int, steps: int) -> None:
        """Imagines `count` branches from here: with actions of the model's own where it has some, else with those held now."""
        stream, node = self._started()
        refuse_range("futures", count, 1, MOST_FUTURES)
        refuse_range("steps", steps, 1, MOST_STEPS)
        seeds = [(self.seed + 1 + i) % 2**31 for i in range(count)]
        self.futures_left = [Imagined(stream=stream.fork(seed), node=node.number, left=steps) for seed in seeds]
        self.playing = False
        self.tell(news("play", on=False))

    def record(self, on: bool) -> None:
        _, node = self._started()
        if on and self.recording is None:
            self.recording = node.number
            self.tell(news("recording", on=True, node=node.number))
        elif not on and self.recording is not None:
            self._stop_recording()

    def keep(self, node: int) -> None:
        """The whole path to a node becomes an episode."""
        self._started()
        self.timeline.mark_of(node)
        self._record(self.timeline.path(node))

    def clip(self, node: int, kind: str) -> None:
        """The whole path to a node becomes an mp4 or GIF."""
        self._started()
        self.timeline.mark_of(node)
        path, done = self.recorder.clip(self.timeline.path(node), kind)
        done.add_done_callback(lambda done: self._tell_written(done, "clip", name=path.name, path=str(path)))

    def set_beside(self, on: bool) -> None:
        _, node = self._started()
        if on and (self.simulator is None or node.number not in self._states):
            raise BadConfig("beside: the simulator is not where the world is, expected one start for both; fix: start at a simulated table")
        if on and self.simulator is not None:
            self.simulator.restore(self._states[node.number])
        self.beside = on
        self.tell(news("beside", on=on, why=""))

    # -- steps --

    def due(self, now: float) -> bool:
        """Whether there is a step to make."""
        return bool(self.futures_left) or self.waits or (self.playing and now >= self.next_at)

    def next_steps(self, now: float) -> list[tuple[WorldStream, np.ndarray | None]]:
        """What is to be stepped now, and by which actions [r, A]; None: its own, or none."""
        if self.futures_left and not self.waits:
            actions = None if self.world.imagines_actions else self._held(self._values)
            return [(future.stream, actions) for future in self.futures_left]
        step_s = self.world.rate / (self.world.fps * self.times)
        late = now - self.next_at
        self.next_at = self.next_at + step_s if 0 <= late < step_s else now + step_s
        self.waits = False
        self._step_acted_at, self._acted_at, self._step_seq = self._acted_at, None, self.seq
        acting = self._values if (self._values != self._rest).any() else self._tapped
        self._tapped = self._rest.copy()
        stream, _ = self._started()
        return [(stream, None if self.auto else self._held(acting))]

    def stepped(self, stream: WorldStream, actions: np.ndarray | None, frames: np.ndarray, seconds: float) -> None:
        """What came of one of `next_steps`: frames uint8 [r, H, W, 3], made in so many seconds."""
        self.made.append(seconds)
        future = next((one for one in self.futures_left if one.stream is stream), None)
        _, node = self._started()
        parent = node.number if future is None else future.node
        acted = "absent" if self.world.action_schema is None else "imagined" if actions is None else "given"
        if actions is None and acted == "imagined":
            actions = self._imagined(stream)
            acted = acted if actions is not None else "absent"
        node = self._add(parent, frames, actions, acted, stream)
        if future is not None:
            self._future_stepped(future, node)
            return
        self.node = node
        self._show(node, 0, seconds)
        if self.beside and self.simulator is not None:
            self._show_real(self.simulator.step(np.zeros((len(frames), 2)) if actions is None else actions), frames)
            self._states[node.number] = self.simulator.state()
            if len(self._states) > 2 * len(self.timeline.nodes):
                self._states = {number: state for number, state in self._states.items() if number in self.timeline.nodes}
        if self.recording is not None:
            self._keep_recorded()
        if self.timeline.forgotten and not self._told_forgotten:
            self.tell(news("note", text="memory is full: the oldest steps are forgotten as new ones come"))
        self._told_forgotten = self.timeline.forgotten

    def failed(self, error: WfmError) -> None:
        """A step could not be made."""
        self.playing, self.futures_left = False, []
        self.tell(news("error", text=str(error)))
        self.tell(news("play", on=False))

    def close(self) -> None:
        """Keeps what was being recorded, and lets go of everything else."""
        self.closed = True
        self._stop_recording()
        self._leave_simulator()
        self.stream, self.node, self.timeline, self.futures_left = None, None, Timeline(self.most_bytes), []
        self.playing = self.waits = False

    def settings(self) -> dict[str, Any]:
        """As the page shows them."""
        sampling = self._started()[0].mark().sampling
        names = ("temperature", "text_guidance", "action_guidance")
        return {"text": self.text, "seed": self.seed, "refine": self.refine} | {name: getattr(sampling, name) for name in names}

    # -- parts of these --

    def _started(self) -> tuple[WorldStream, Node]:
        if self.stream is None or self.node is None:
            raise BadPrompt("play: nothing was started yet, expected a start; fix: choose what to begin from")
        return self.stream, self.node

    def _held(self, values_A: np.ndarray) -> np.ndarray | None:
        return None if not len(values_A) else np.tile(values_A, (self.world.rate, 1))

    def _release_keys(self) -> None:
        self._values, self._tapped, self._acted_at = self._rest.copy(), self._rest.copy(), None

    def _imagined(self, stream: WorldStream) -> np.ndarray | None:
        """The actions of its last latent, float32 [r, A]."""
        bins_rA = stream.mark().row.bins[-1]
        return None if bins_rA is None else self.world.actions.decode([None, bins_rA])

    def _add(self, parent: int | None, frames: np.ndarray, actions, acted: str, stream: WorldStream, given: int = 0) -> Node:
        before = None if parent is None else self.timeline.nodes[parent]
        step, frame = (0, 0) if before is None else (before.step + 1, before.frame + before.count)
        pictures = [png_of(one) for one in frames]
        about = dict(pictures=pictures, count=len(pictures), actions=actions, acted=acted, text=self.text, given=given)
        return self.timeline.add(parent, step=step, frame=frame, mark=stream.mark(), **about)

    def _show(self, node: Node, first: int, seconds: float = 0.0) -> None:
        """Sends the pictures of a node from number `first` on."""
        waited = -1.0
        if self._step_acted_at is not None and first == 0 and node.step:
            waited = time.perf_counter() - self._step_acted_at
            self.waited.append(waited)
        self._step_acted_at = None
        for number in range(first, len(node.pictures)):
            self.tell(self._picture(WORLD, node, number, node.pictures[number], seconds=seconds, waited=waited))
            self.shown += 1

    def _show_real(self, real_THWC: np.ndarray, imagined_THWC: np.ndarray) -> None:
        _, node = self._started()
        for number, (frame, away) in enumerate(zip(real_THWC, distances(imagined_THWC, real_THWC), strict=True)):
            self.tell(self._picture(SIMULATOR, node, number, png_of(frame), distance=away))

    def _picture(
        self, kind: int, node: Node, number: int, png: bytes, *, seconds: float = 0.0, waited: float = -1.0, distance: float = -1.0
    ):
        return Picture(
            kind=kind,
            number=number,
            count=node.count,
            node=node.number,
            parent=node.parent,
            step=node.step,
            frame=node.frame + number,
            seq=self._step_seq,
            shown_ms=1000 / (self.world.fps * self.times),
            made_ms=1000 * seconds,
            waited_ms=-1.0 if waited < 0 else 1000 * waited,
            distance=distance,
            png=png,
        ).packed()

    def _future_stepped(self, future: Imagined, node: Node) -> None:
        future.node, future.left = node.number, future.left - 1
        self.tell(news("future", node=node.number, parent=node.parent, step=node.step, whole=not future.left))
        self.futures_left = [one for one in self.futures_left if one.left]
        if not self.futures_left:
            self.tell(news("futures", done=True))

    def _keep_recorded(self) -> None:
        """What is being recorded is not forgotten; at a quarter of the memory an episode ends here and another begins."""
        path = self._recorded_path()
        self.timeline.pin({node.number for node in path})
        if sum(node.size for node in path) > self.most_bytes // 4:
            self._stop_recording()
            self.recording = self._started()[1].number
            self.tell(news("note", text="the recording grew long: it is kept as an episode, and another one goes on from here"))

    def _recorded_path(self) -> list[Node]:
        """From where the recording began to here; where it was gone back further than that, from here."""
        _, node = self._started()
        path = self.timeline.path(node.number, self.recording)
        if path[0].number != self.recording:
            self.recording = node.number
            return path[-1:]
        return path

    def _stop_recording(self) -> None:
        if self.recording is None or self.node is None:
            return
        path, self.recording = self._recorded_path(), None
        self.timeline.pin(set())
        self.tell(news("recording", on=False, node=self.node.number))
        try:
            self._record(path)
        except WfmError as error:  # the recording is over all the same
            self.tell(news("error", text=str(error)))

    def _record(self, path: list[Node]) -> None:
        done = self.recorder.add(path, text=path[-1].text, seed=self.seed, refined=self.refine)
        done.add_done_callback(lambda done: self._tell_written(done, "recorded", path=str(self.recorder.set_path)))

    def _tell_written(self, done: Future, what: str, **about: Any) -> None:
        error = done.exception()
        if error is not None:
            self.tell(news("error", text=str(error) if isinstance(error, WfmError) else f"{what}: failed ({type(error).__name__})"))
        elif done.result() is not None:
            count = {"episodes": done.result()} if what == "recorded" else {}
            self.tell(news(what, **about, **count))

    def _leave_simulator(self) -> None:
        if self.simulator is not None:
            self.simulator.close()
        self.simulator, self.beside = None, False
