"""`episodes.jsonl`, the index of a data set in our own format: read line by line, strictly.

Every error names file and line, and no path leaves the folder, symbolic links included. Whether the files are
there is not looked at.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wfm_ar.data.episodes import INDEX, Episode, EpisodeSet
from wfm_ar.data.json_files import parse_json, read_bytes
from wfm_ar.data.listing import inside
from wfm_ar.data.schema_file import read_schema
from wfm_ar.data.splits import SPLITS
from wfm_ar.errors import BadData, nearest
from wfm_ar.plain_text import is_plain
from wfm_ar.schema import MixedSchema

KEYS = ("id", "video", "text", "actions", "state", "embodiment", "fps", "split")
REQUIRED = ("id", "video", "fps", "split")
LINE_BYTES, INDEX_BYTES = 64 << 10, 256 << 20  # of a line of episodes.jsonl, and of all


def open_own(root: Path) -> EpisodeSet:
    """A folder with episodes.jsonl. Raises BadData."""
    episodes = tuple(_parse_index(root))
    schema = read_schema(root, needed=any(episode.actions for episode in episodes))
    for number, episode in enumerate(episodes, 1):
        if episode.actions and isinstance(schema, MixedSchema):
            try:
                schema.of(episode.embodiment)
            except BadData as error:
                raise BadData(f"{root / INDEX} line {number}: {error}") from None
    return EpisodeSet(path=root, format="episodes", title="episodes.jsonl", schema=schema, episodes=episodes)


def _parse_index(root: Path) -> Iterator[Episode]:
    lines = read_lines(root)
    first_line: dict[str, int] = {}
    videos: dict[Path, int] = {}
    for number, line in enumerate(lines, 1):
        where = f"{root / INDEX} line {number}"
        episode = parse_line(line, where, root)
        if episode.id in first_line:
            before = first_line[episode.id]
            raise BadData(f"{where}: id {episode.id!r} is that of line {before} too, expected distinct ids; fix: rename one")
        first_line[episode.id] = number
        before = videos.setdefault(episode.video, number)
        if before != number:
            raise BadData(f"{where}: {episode.video.name} belongs to line {before} too, expected a file an episode; fix: copy it")
        yield episode


def read_lines(root: Path) -> list[bytes]:
    """The lines of episodes.jsonl, at least one. Raises BadData."""
    try:
        lines = read_bytes(inside(root, INDEX, str(root / INDEX)), INDEX_BYTES).splitlines()
    except (OSError, ValueError) as error:
        raise BadData(f"{root / INDEX}: cannot be read ({error}), expected one line an episode; fix: make the data set again") from None
    if not lines:
        raise BadData(f"{root / INDEX}: is empty, expected one line an episode; fix: make the data set again")
    return lines


def parse_line(line: bytes, where: str, root: Path) -> Episode:
    """One line of episodes.jsonl -> Episode; every error begins with `where`. Does not look whether the files exist."""
    if len(line) > LINE_BYTES:
        raise BadData(f"{where}: got a line of {len(line)} bytes, expected at most {LINE_BYTES}; fix: shorten its text")
    try:
        data = parse_json(line)
    except ValueError as error:
        raise BadData(f"{where}: is not JSON ({error}), expected one object a line; fix: write it with a JSON library") from None
    if not isinstance(data, dict):
        raise BadData(f"{where}: got a {type(data).__name__}, expected an object; fix: one object a line")
    for key in data:
        if key not in KEYS:
            raise BadData(f"{where}: unknown key {key!r}{nearest(key, KEYS)}, expected {list(KEYS)}; fix: rename or remove it")
    for key in REQUIRED:
        if data.get(key) is None:
            raise BadData(f"{where}: key {key!r} is missing, expected {list(REQUIRED)}; fix: add it")
    for key in KEYS:
        value = data.get(key)
        if key != "fps" and value is not None and (not isinstance(value, str) or not value.strip()):
            raise BadData(f"{where}: {key} is {value!r:.80}, expected text that is not empty; fix: fill it in or leave the key out")
        if isinstance(value, str):
            _check_words(value, f"{where}: {key}", is_path=key in ("video", "actions", "state"))
            if key in ("id", "embodiment") and not is_plain(value):
                raise BadData(f"{where}: {key} is {value!a:.80}, expected plain characters in one line; fix: rename it")
    fps = data["fps"]
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 1e6:  # NaN is not
        raise BadData(f"{where}: fps is {fps!r:.80}, expected a number above 0; fix: give the frames per second")
    if data["split"] not in SPLITS:
        near = nearest(data["split"], SPLITS)
        raise BadData(f"{where}: split is {data['split']!r:.80}{near}, expected one of {list(SPLITS)}; fix: name one")
    paths: dict[str, Any] = {key: inside(root, data.get(key), f"{where}: {key}") for key in ("video", "actions", "state")}
    rest = {key: data.get(key) for key in ("text", "embodiment")}
    return Episode(id=data["id"], fps=float(fps), split=data["split"], **rest, **paths)


def _check_words(value: str, where: str, *, is_path: bool) -> None:
    """Text that can be written again, and a path that a file system can take."""
    try:
        content = value.encode()
    except UnicodeEncodeError as error:
        raise BadData(f"{where}: got a lone surrogate at character {error.start}, expected Unicode text; fix: remove it") from None
    if is_path and (len(content) > 2048 or max(map(len, content.split(b"/"))) > 255):
        raise BadData(f"{where}: got a path of {len(content)} bytes, expected names of at most 255; fix: shorten it")
