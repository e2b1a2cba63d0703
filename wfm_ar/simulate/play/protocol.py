"""What page and server say to each other over the WebSocket: commands and news as JSON text, pictures as binary messages.

A picture message is a header of HEADER.size bytes (little endian), then a PNG file:

    offset  type     name        what
    0       4 bytes  magic       b"WFMP"
    4       uint8    version     1
    5       uint8    kind        0 of the world, 1 of the simulator beside it
    6       uint16   number      of this picture among those of its step, from 0
    8       uint16   count       pictures of its step
    10      uint32   node        of the tree of steps
    14      uint32   parent      the node before, NOBODY where there is none
    18      uint32   step        latents since the beginning
    22      uint32   frame       frames since the beginning
    26      uint32   seq         of the last `act` that was known when the step began
    30      float32  shown_ms    how long it is to be shown
    34      float32  made_ms     what the step took to make
    38      float32  waited_ms   from the first `act` the step is made from, as received, to here; negative where there was none
    42      float32  distance    of a simulator's picture to the world's, grey levels; negative where there is none

Commands are objects with a "do" and the keys that COMMANDS lists; whatever else arrives is refused in one line, and counts for nothing.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from wfm_ar.data.json_files import parse_json
from wfm_ar.errors import BadConfig, BadPrompt, nearest

MAGIC, VERSION, NOBODY = b"WFMP", 1, 2**32 - 1
WORLD, SIMULATOR = 0, 1
HEADER = struct.Struct("<4sBBHHIIIIIffff")
MESSAGE_BYTES = 1 << 16  # of a command
TEXT_CHARACTERS = 2000
MOST_FUTURES, MOST_STEPS = 8, 64

Number = (int, float)
COMMANDS: dict[str, dict[str, tuple[type, ...]]] = {  # do -> key -> kinds of its value; all keys are needed but those in OPTIONAL
    "start": {"source": (str,), "id": (str, type(None)), "text": (str, type(None)), "seed": (int,), "refine": (bool,)},
    "act": {"seq": (int,), "values": (list,)},
    "play": {"on": (bool,)},
    "step": {},
    "speed": {"times": Number},
    "auto": {"on": (bool,)},
    "set": {
        "text": (str, type(None)),
        "seed": (int,),
        "temperature": Number,
        "text_guidance": Number,
        "action_guidance": Number,
    },
    "go": {"node": (int,)},
    "futures": {"count": (int,), "steps": (int,)},
    "record": {"on": (bool,)},
    "keep": {"node": (int,)},
    "clip": {"node": (int,), "kind": (str,)},
    "beside": {"on": (bool,)},
    "ping": {"at": Number},
}
OPTIONAL = {"start": {"id", "text", "seed", "refine"}, "set": {"text", "seed", "temperature", "text_guidance", "action_guidance"}}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a step and what is told with it; see the table above."""

    kind: int
    number: int
    count: int
    node: int
    parent: int | None
    step: int
    frame: int
    seq: int
    shown_ms: float
    made_ms: float
    waited_ms: float
    distance: float
    png: bytes

    def packed(self) -> bytes:
        parent = NOBODY if self.parent is None else self.parent
        whole = self.kind, self.number, self.count, self.node, parent, self.step, self.frame, self.seq
        return HEADER.pack(MAGIC, VERSION, *whole, self.shown_ms, self.made_ms, self.waited_ms, self.distance) + self.png


def unpacked(message: bytes) -> Picture:
    """What `Picture.packed` wrote. Raises ValueError for anything else."""
    if len(message) < HEADER.size or message[:5] != MAGIC + bytes([VERSION]):
        raise ValueError(f"got {len(message)} bytes, expected a picture message of version {VERSION}")
    _, _, kind, number, count, node, parent, step, frame, seq, shown, made, waited, distance = HEADER.unpack_from(message)
    return Picture(
        kind=kind,
        number=number,
        count=count,
        node=node,
        parent=None if parent == NOBODY else parent,
        step=step,
        frame=frame,
        seq=seq,
        shown_ms=shown,
        made_ms=made,
        waited_ms=waited,
        distance=distance,
        png=message[HEADER.size :],
    )


def read_command(message: str) -> dict[str, Any]:
    """A command whose keys and kinds are right; what its values mean is for others to check. Raises BadPrompt."""
    try:
        command = parse_json(message)
    except ValueError as error:
        raise BadPrompt(f"command: is not JSON ({error}), expected an object; fix: write it with a JSON library") from None
    if not isinstance(command, dict) or not isinstance(command.get("do"), str):
        raise BadPrompt('command: got no "do", expected an object with one; fix: {"do": "step"}')
    do = command["do"]
    if do not in COMMANDS:
        raise BadPrompt(f"command: unknown {do!r:.40}{nearest(do, COMMANDS)}, expected one of {', '.join(COMMANDS)}; fix: name one")
    kinds, optional = COMMANDS[do], OPTIONAL.get(do, set())
    for key in command.keys() - kinds.keys() - {"do"}:
        raise BadPrompt(f"command {do}: unknown key {key!r:.40}{nearest(key, kinds)}, expected {sorted(kinds)}; fix: leave it out")
    for key in kinds.keys() - optional - command.keys():
        raise BadPrompt(f"command {do}: key {key!r} is missing, expected {sorted(kinds.keys() - optional)}; fix: add it")
    for key, value in command.items():
        if key != "do":
            _check(do, key, value, kinds[key])
    return command


def _check(do: str, key: str, value: Any, kinds: tuple[type, ...]) -> None:
    names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    if wrong or (isinstance(value, float) and not math.isfinite(value)):
        raise BadPrompt(f"command {do}: {key} is {value!r:.40}, expected {names}; fix: see the protocol")
    if isinstance(value, str) and len(value) > TEXT_CHARACTERS:
        raise BadPrompt(f"command {do}: {key} has {len(value)} characters, expected at most {TEXT_CHARACTERS}; fix: shorten it")
    if isinstance(value, int) and not isinstance(value, bool) and not 0 <= value < 2**31 and kinds == (int,):
        raise BadPrompt(f"command {do}: {key} is {value}, expected a whole number from 0 to {2**31 - 1}; fix: choose another")
    if isinstance(value, list) and not all(isinstance(x, Number) and not isinstance(x, bool) and math.isfinite(x) for x in value):
        raise BadPrompt(f"command {do}: {key} is {value!r:.40}, expected finite numbers; fix: one a channel")


def news(what: str, **about: Any) -> str:
    """A JSON message to the page."""
    return json.dumps({"news": what, **about}, ensure_ascii=False, allow_nan=False)


def refuse_range(name: str, value: float, low: float, high: float) -> None:
    """Raises BadConfig for a value outside."""
    if not low <= value <= high:
        raise BadConfig(f"{name}: got {value:g}, expected {low:g} to {high:g}; fix: choose one in between")
