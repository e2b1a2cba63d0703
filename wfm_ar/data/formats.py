"""Which format a path holds, found by looking; and several data sets as one.

episodes.jsonl          our own format                       episodes.py
meta/info.json          LeRobot v2.0, v2.1, v3.0             lerobot.py     extra [lerobot]
*.tfrecord*             RLDS episodes                        rlds.py
*.hdf5, *.h5            robomimic's layout                   hdf5.py        extra [hdf5]
*.mp4 ...               a folder of videos, actions beside   folder.py
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wfm_ar.data.episodes import INDEX, Episode, EpisodeSet, Place, Reader
from wfm_ar.data.episodes_jsonl import open_own
from wfm_ar.data.folder import open_folder
from wfm_ar.data.listing import files_below
from wfm_ar.data.problems import Problems
from wfm_ar.data.splits import SPLITS
from wfm_ar.data.views import check_flip, flipped, thinned
from wfm_ar.errors import BadConfig, BadData, nearest
from wfm_ar.schema import ActionSchema, MixedSchema

HDF5_SUFFIXES = (".hdf5", ".h5")
LEROBOT, TFDS = "meta/info.json", "features.json"  # what marks the root of a LeRobot set, and of a set that TFDS wrote
TITLES = {"episodes": INDEX, "lerobot": "LeRobot", "rlds": "RLDS", "hdf5": "HDF5", "folder": "folder of videos"}
MOST_NAMED = 8  # data sets named in a message
HAVE_CAMERAS = ("lerobot", "rlds", "hdf5")  # formats with a choice of cameras
TEXTS = ("first", "frame")  # which text an episode has whose texts change
VIEW = ("camera", "fps", "flip", "text")  # settings of the verbs that read data: how they are seen


def open_episodes(
    path: str | Path,
    split: str | None = None,
    *,
    camera: str | None = None,
    fps: float | None = None,
    flip: str | None = None,
    text: str = "first",
) -> EpisodeSet:
    """Opens data of any known format; `split` keeps only "train", "val" or "test".

    camera: which of several to show, or "tile" for all of them in one picture; None takes the first. fps: frames a second; data that
    do not say have so many, data of more are thinned to it with their actions. flip: "vertical" turns pictures that are stored bottom
    row first. text: where the texts of an RLDS episode change, "first" takes its first that is not empty, "frame" makes an episode
    of each stretch with one text. Several paths joined by ":" are one set.

    Raises BadData, BadClip, BadActions, BadConfig, MissingDependency.
    """
    if split is not None and split not in SPLITS:
        raise BadData(f"{path}: got split {split!r}{nearest(split, SPLITS)}, expected one of {list(SPLITS)}; fix: name one")
    check_flip(flip)
    if text not in TEXTS:
        raise BadConfig(f"text: got {text!r}{nearest(text, TEXTS)}, expected one of {list(TEXTS)}; fix: name one")
    found = open_any(path, camera=camera, fps=fps, flip=flip, text=text)
    found = found if fps is None else thinned(found, fps)
    return found if split is None else found.of_split(split)


def open_any(
    path: str | Path,
    *,
    camera: str | None,
    fps: float | None,
    flip: str | None = None,
    text: str = "first",
    problems: Problems = None,
) -> EpisodeSet:
    """The data at the rate they are stored at, see open_episodes; `fps` is the rate of those that do not say.

    With a list of `problems`, what is wrong with one file or episode is added to it, and the rest opened.
    """
    if not Path(path).exists() and len(parts := [Path(part) for part in str(path).split(os.pathsep) if part]) > 1:
        kinds = [format_of(part)[0] for part in parts]
        chosen = not any(kind in HAVE_CAMERAS for kind in kinds)  # a camera goes to those that have a choice
        wishes = [camera if kind in HAVE_CAMERAS or chosen else None for kind in kinds]
        texts = [text if kind == "rlds" or "rlds" not in kinds else "first" for kind in kinds]
        sets = [_open_one(part, wish, fps, words, problems) for part, wish, words in zip(parts, wishes, texts, strict=True)]
        return mix(sets if flip is None else [flipped(one, flip) for one in sets])
    found = _open_one(Path(path), camera, fps, text, problems)
    return found if flip is None else flipped(found, flip)


def _open_one(path: Path, camera: str | None, fps: float | None, text: str, problems: Problems) -> EpisodeSet:
    kind, root = format_of(path)
    if fps is not None and not (fps > 0 and np.isfinite(fps)):
        raise BadConfig(f"fps: got {fps}, expected a number above 0; fix: give the frames a second")
    if camera is not None and kind not in HAVE_CAMERAS:
        raise BadConfig(f"camera: got {camera!r}, but {path} has one view an episode, expected none; fix: leave it out")
    if text != "first" and kind != "rlds":
        raise BadConfig(f"text: got {text!r}, but {path} is no RLDS, whose texts may change in an episode; fix: leave it out")
    if kind in ("episodes", "folder"):
        return open_own(root) if kind == "episodes" else open_folder(root, problems)
    if kind == "lerobot":
        from wfm_ar.data.lerobot import open_lerobot

        return open_lerobot(root, camera, problems)
    if kind == "rlds":
        from wfm_ar.data.rlds import open_rlds

        return open_rlds(root, camera, fps, text, problems)
    from wfm_ar.data.hdf5 import open_hdf5

    return open_hdf5(root, camera, fps, problems)


def title_of(path: Path) -> str:
    """The format of a data set as a user calls it, found without reading the set; "" where there is none, or are several."""
    try:
        return TITLES[format_of(path)[0]]
    except BadData:
        return ""


def format_of(path: Path) -> tuple[str, Path]:
    """("episodes", "lerobot", "rlds", "hdf5" or "folder", the folder or file to open). Raises BadData for what is no data set, for a
    folder that other data sets lie in, and for a part of one."""
    if path.name == INDEX and path.is_file():
        root = path.parent
        return ("lerobot", root.parent) if root.name == "meta" and (root / "info.json").is_file() else ("episodes", root)
    if path.is_file():
        if ".tfrecord" in path.name:
            return "rlds", path
        if path.suffix.lower() in HDF5_SUFFIXES:
            return "hdf5", path
        raise BadData(f"{path}: is a file of no known kind, expected {INDEX}, .tfrecord or .hdf5; fix: name the folder of the data set")
    if not path.is_dir():
        raise BadData(f"{path}: is not a folder, expected a data set; fix: check the path, or make one with `wfm data make`")
    if (path / INDEX).exists():
        return "episodes", path
    if (path / LEROBOT).exists():
        return "lerobot", path
    _refuse_part(path)
    files = files_below(path)
    _refuse_sets_below(path, files)
    return _one_kind(path, files), path


def _one_kind(path: Path, files: list[Path]) -> str:
    """Which format the files are of. Raises BadData where they are of two: one of them would be left out."""
    first: dict[str, Path] = {}
    for file in files:
        kind = "rlds" if ".tfrecord" in file.name else "hdf5" if file.suffix.lower() in HDF5_SUFFIXES else "folder"
        first.setdefault(kind, file)
    if {"rlds", "hdf5"} <= first.keys():
        told = " and ".join(str(first[kind].relative_to(path)) for kind in ("rlds", "hdf5"))
        raise BadData(f"{path}: holds files of two formats ({told}), expected one; fix: name the folder of one of them")
    return next((kind for kind in ("rlds", "hdf5") if kind in first), "folder")


def _refuse_part(path: Path) -> None:
    """Raises BadData where `path` is the folder of videos, rows or index files of a data set: the rest of it would be lost."""
    inner = path.resolve()
    for root in inner.parents:
        top = inner.relative_to(root).parts[0]
        for index, title, folders in ((LEROBOT, "LeRobot", ("videos", "data", "meta")), (INDEX, INDEX, ("videos", "actions", "states"))):
            if top in folders and (root / index).is_file():
                raise BadData(f"{path}: is a part of a data set ({title}), expected the whole of it; fix: data={root}")


def _refuse_sets_below(path: Path, files: list[Path]) -> None:
    """Raises BadData where whole data sets lie below `path`: read as one folder they would lose their actions, texts and episodes."""
    titles = {file.parents[1]: "LeRobot" for file in files if file.as_posix().endswith(f"/{LEROBOT}")}
    titles |= {file.parent: INDEX for file in files if file.name == INDEX and file.parent.name != "meta"}
    rlds = {file.parent for file in files if ".tfrecord" in file.name}
    tfds = {file.parent: "RLDS" for file in files if file.name == TFDS and file.parent in rlds}
    if not titles and len(tfds) < 2:  # one set of TFDS may be opened from above: all of it is found
        return
    titles |= tfds
    sets = sorted(titles)
    named = ", ".join(f"{one.relative_to(path).as_posix()} ({titles[one]})" for one in sets[:MOST_NAMED])
    more = f" and {len(sets) - MOST_NAMED} more" if len(sets) > MOST_NAMED else ""
    count = "a data set" if len(sets) == 1 else f"{len(sets)} data sets"
    fix = os.pathsep.join(map(str, sets[:MOST_NAMED]))
    raise BadData(f"{path}: holds {count} below it, {named}{more}, expected one right here; fix: data={fix}")


@dataclass(frozen=True, kw_only=True)
class _Part:
    reader: Reader
    episode: Episode  # as its own set has it


class MixReader:
    """Each episode is read by the reader of the set it came from."""

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        return episode.source.reader.frames(episode.source.episode, start, count)

    def num_frames(self, episode: Episode) -> int:
        return episode.source.reader.num_frames(episode.source.episode)

    def frames_from(self, episode: Episode) -> list[Place]:
        return episode.source.reader.frames_from(episode.source.episode)

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        return episode.source.reader.actions(episode.source.episode, schema)

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        return episode.source.reader.state(episode.source.episode)


def mix(sets: list[EpisodeSet]) -> EpisodeSet:
    """Several sets as one. Sets with the same schema are one robot; the others are told apart by the names of their folders."""
    robots: dict[str, ActionSchema] = {}
    episodes: list[Episode] = []
    taken: set[str] = set()
    for one in sets:
        name = _free(one.path.resolve().stem or "data", taken)
        taken.add(name)
        own = {} if one.schema is None else {None: one.schema} if isinstance(one.schema, ActionSchema) else dict(one.schema.embodiments)
        renamed: dict[str | None, str] = {}
        for embodiment, schema in own.items():
            same = next((known for known, other in robots.items() if not other.diff(schema)), None)
            renamed[embodiment] = same or _free(embodiment or name, set(robots))
            robots[renamed[embodiment]] = schema
        for episode in one.episodes:
            key = None if isinstance(one.schema, ActionSchema) else episode.embodiment
            robot = renamed[key] if episode.actions else None
            source = _Part(reader=one.reader, episode=episode)
            episodes.append(replace(episode, id=f"{name}/{episode.id}", embodiment=robot, source=source))
    schema = None if not robots else MixedSchema(embodiments=tuple(robots.items())) if len(robots) > 1 else next(iter(robots.values()))
    return EpisodeSet(
        path=Path(os.pathsep.join(str(one.path) for one in sets)),
        format="mix",
        title=f"{len(sets)} data sets",
        schema=schema,
        episodes=tuple(episodes),
        reader=MixReader(),
        schema_made=any(one.schema_made for one in sets),
        notes=tuple(one.about() for one in sets),
        view=os.pathsep.join(one.view for one in sets) if any(one.view for one in sets) else "",
    )


def _free(name: str, taken: set[str]) -> str:
    n, candidate = 1, name
    while candidate in taken:
        n += 1
        candidate = f"{name}_{n}"
    return candidate
