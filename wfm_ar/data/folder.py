"""A folder of videos; with actions (`a.mp4` + `a.npz`, as BridgeData clips come) and texts (`a.txt`) beside them where there are any.

It is searched to the bottom. Actions in other files (.npy, .csv, .json ...) are not read, and that is said. Folders called train,
val (or validation, valid) and test right below the top are splits when there is more than one of them; otherwise a hash of the name
decides.
"""

from pathlib import Path

import numpy as np

from wfm_ar.data.episodes import Episode, EpisodeSet, Place, load_state, paired
from wfm_ar.data.json_files import read_bytes
from wfm_ar.data.listing import files_below, inside, refuse_pointer
from wfm_ar.data.problems import Problems, noted, sound
from wfm_ar.data.schema_file import SCHEMA, read_schema
from wfm_ar.data.schema_from_data import schema_from_data
from wfm_ar.data.splits import hashed_splits
from wfm_ar.data.video import VIDEO_SUFFIXES, video_info
from wfm_ar.data.video_files import VideoFiles
from wfm_ar.errors import BadActions, BadData
from wfm_ar.schema import ActionSchema, same_rate

ARRAYS = ("arr_0", "actions", "action")  # the array of an .npz that holds the actions
SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
LONGEST_TEXT = 4096  # bytes of a .txt
NOT_READ = (".npy", ".npz", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".pkl", ".mat", ".bag", ".mcap")  # where others keep actions


class NpzReader:
    """Videos with an .npz of actions beside each: a row a frame (the last one leads nowhere), or one less."""

    def __init__(self) -> None:
        self._videos = VideoFiles()

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        return self._videos.frames(episode.video, episode.fps, paired(episode), start, count)

    def num_frames(self, episode: Episode) -> int:
        return self._videos.num_frames(episode.video, episode.fps, paired(episode))

    def frames_from(self, episode: Episode) -> list[Place]:
        return [Place(episode.video, within=self._videos.place_within(episode.video, paired(episode)))]

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        values = self.used(episode)
        schema.validate(values, str(episode.actions))
        return np.ascontiguousarray(values, np.float32)

    def used(self, episode: Episode) -> np.ndarray:
        """The actions between frames as stored, [frames - 1, A]; what a row beside the last frame holds does not matter."""
        assert episode.actions is not None, "asked for only where there are some"
        values, frames = actions_of_npz(episode.actions), self.num_frames(episode)
        if frames and len(values) not in (frames - 1, frames):
            raise BadActions(
                f"{episode.actions}: got {len(values)} actions for {frames} frames, expected {frames - 1} or {frames}; "
                "fix: one action between every two frames"
            )
        return values[: frames - 1 if frames else None]

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        raise AssertionError("episodes of this format have no state")


def open_folder(root: Path, problems: Problems = None) -> EpisodeSet:
    """A bare folder of videos, or one with .npz beside them. Raises BadData, BadClip, BadActions."""
    names = videos_in(root)
    if not names:
        kinds = "/".join(suffix[1:] for suffix in VIDEO_SUFFIXES)
        raise BadData(
            f"{root}: got neither episodes.jsonl nor any meta/info.json, .tfrecord, .hdf5 or {kinds} file, expected a data set; "
            "fix: check the path"
        )
    splits = splits_of(list(names))
    episodes = []
    for name, path in names.items():
        with noted(problems):
            episodes.append(_episode(root, name, path, splits[name]))
    schema, made, reader = None, False, NpzReader()
    with noted(problems):
        schema = read_schema(root, needed=False)
    acting = [episode for episode in episodes if episode.actions]
    notes = _not_read(root, {*names.values(), *(episode.actions for episode in acting)})
    if not acting:
        return EpisodeSet(path=root, format="videos", title="folder of videos", schema=schema, episodes=tuple(episodes), notes=tuple(notes))
    actors = sound(sample(acting), reader.used, problems)
    if schema is None and actors:
        rates = sorted({episode.fps for episode in acting})
        if not same_rate(rates[0], rates[-1]):
            raise BadData(f"{root}: got videos of {rates} frames a second, expected one rate for the actions; fix: part them by rate")
        arrays, places = (reader.used(episode) for episode in actors), [str(episode.actions) for episode in actors]
        made, schema = True, schema_from_data(arrays, rates[0], places=places, where=f"{root}: .npz files")
        notes.append(schema_note(schema, root))
    return EpisodeSet(
        path=root,
        format="bridge",
        title="videos with .npz actions",
        schema=schema,
        episodes=tuple(episodes),
        reader=reader,
        schema_made=made,
        notes=tuple(notes),
    )


def _episode(root: Path, name: str, path: Path, split: str) -> Episode:
    video = inside(root, name, str(root / name))
    beside = {suffix: Path(name).with_suffix(suffix).as_posix() for suffix in (".npz", ".txt")}
    files = {s: inside(root, n, str(root / n)) if (root / n).is_file() else None for s, n in beside.items()}
    text, rate = _text(files[".txt"]), video_info(path).fps
    if not rate:
        raise BadData(f"{path}: does not say how many frames a second it has, expected a rate; fix: encode it again")
    return Episode(id=name, video=video, text=text, actions=files[".npz"], state=None, fps=rate, split=split)


def _not_read(root: Path, read: set[Path]) -> list[str]:
    """A note on files that may hold actions and are not read, where there are any."""
    left = [path for path in files_below(root) if path.suffix.lower() in NOT_READ and path not in read and path != root / SCHEMA]
    if not left:
        return []
    kinds = ", ".join(sorted({path.suffix.lower() for path in left}))
    first = left[0].relative_to(root).as_posix()
    count = f"1 file ({first}) is" if len(left) == 1 else f"{len(left)} files ({kinds}; the first is {first}) are"
    return [f"{count} not read: actions are taken from a.npz beside a.mp4, texts from a.txt"]


def videos_in(root: Path) -> dict[str, Path]:
    """The videos below `root` by their relative names, in order."""
    return {path.relative_to(root).as_posix(): path for path in files_below(root) if path.suffix.lower() in VIDEO_SUFFIXES}


def splits_of(names: list[str]) -> dict[str, str]:
    """name -> split, from the folders right below the top where they say it, else from a hash."""
    folders = {name: SPLIT_FOLDERS.get(name.split("/")[0]) if "/" in name else None for name in names}
    told = {name: split for name, split in folders.items() if split is not None}
    if len(told) == len(folders) and {"train", "val"} <= set(told.values()):
        return told
    return hashed_splits(names)


def sample(items: list, most: int = 2000) -> list:
    """At most `most` of the items, evenly spaced: what a schema is made from."""
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, min(most, len(items)))] if items else []


def schema_note(schema: ActionSchema, root: Path) -> str:
    """What to tell of a schema that was made from data."""
    constant = sum(channel.constant for channel in schema.channels)
    told = f", {constant} of them constant and left out" if constant else ""
    return f"action ranges taken from the data{told} ({root / SCHEMA} would set them)"


def actions_of_npz(path: Path) -> np.ndarray:
    """The actions of an .npz, [N, A] as stored. Raises BadData, BadActions."""
    arrays = load_state(path)
    name = next((name for name in ARRAYS if name in arrays), None)
    if name is None:
        raise BadData(f"{path}: got arrays {sorted(arrays)[:8]}, expected one of {list(ARRAYS)}; fix: name the actions so")
    values = arrays[name]
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise BadActions(f"{path}: {name} is {values.dtype} {list(values.shape)}, expected numbers [N, A]; fix: one row a step")
    return values


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = read_bytes(refuse_pointer(path), LONGEST_TEXT).decode().strip()
    except (OSError, ValueError) as error:
        told = f"got no UTF-8 text of at most {LONGEST_TEXT} bytes ({error}), expected an instruction"
        raise BadData(f"{path}: {told}; fix: shorten it, or save it as UTF-8") from None
    return text or None
