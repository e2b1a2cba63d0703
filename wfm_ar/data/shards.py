"""Token shards: a data set encoded once, memory-mapped ever after.

A store is a folder with `store.json` (what made it) and shards `shard-00000/`, each with

    video.npy      uint16 or int32 [latents, h, w], all clips of the shard one after another
    actions.npy    int16 bins [latents, r, A]; row k holds the actions that lead to latent k, the first row of a clip is zero
    frames.npy     int32 [latents]: the first frame of the source clip that a latent stands for
    images.npy     like video.npy, where asked for: a latent's last frame encoded alone, as an image that is a prompt
    episodes.json  id, text, first latent, latents and origin of each clip; size and SHA-256 of the arrays, SHA-256 of the clips' table

A shard is written under a temporary name, synced and renamed, so an interrupted encoding goes on at the first missing shard.
A lock a shard lets several processes encode one store side by side: each takes the next shard that nobody has.
Arrays are mapped when they are first needed and at most `OPEN_SHARDS` shards at a time, because each map holds a file open.
"""

import fcntl
import hashlib
import json
import operator
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wfm_ar.data.files import as_wfm_error, fsync, remove_dead_parts, sha256_of, write_atomic
from wfm_ar.data.fingerprint import Origin
from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadData

INDEX, DESCRIPTION = "episodes.json", "store.json"
OPEN_SHARDS = 128
CLIP_KEYS, ORIGIN_KEYS = {"id", "text", "first", "latents"}, {"frames", "actions"}  # of a clip in a shard's table
TABLE_BYTES = 1 << 30  # of a shard's table of clips, or of what describes a store


class TokenClip(NamedTuple):
    """One clip in tokens: video int [n, h, w], bins int16 [n - 1, r, A], frames int32 [n], images [n, h, w]; None = none.

    origin: what it was made from; None where that was not written down.
    """

    id: str
    video: np.ndarray
    bins: np.ndarray | None
    text: str | None
    frames: np.ndarray | None = None
    images: np.ndarray | None = None
    origin: Origin | None = None


class Shard(NamedTuple):
    """The arrays of one shard, mapped: video int [n, h, w], bins int16 [n, r, A], frames int32 [n], images [n, h, w]; None = none."""

    video: np.ndarray
    bins: np.ndarray | None
    frames: np.ndarray | None
    images: np.ndarray | None


class TokenStore:
    """Random access to the clips of a store; arrays stay on disk, memory-mapped.

    ids, texts, origins: a value a clip. shard_of, first, latents: int64 [clips], where a clip's rows stand.
    """

    def __init__(self, root: Path, verify: bool = False):
        """verify: read every byte and compare with the recorded hashes. Raises BadData."""
        self.root = Path(root)
        self.about = read_description(self.root / DESCRIPTION)
        count = self.about.get("shards")
        if not isinstance(count, int) or "actions" not in self.about:
            raise BadData(f"{self.root / DESCRIPTION}: does not describe a token store; fix: delete the folder and encode again")
        folders = [self.root / f"shard-{i:05d}" for i in range(count)]
        found = sum((folder / INDEX).is_file() for folder in folders)
        if found != count:
            raise BadData(f"{root}: got {found} shards, expected {count}; fix: run the encoding again, it goes on")
        indices = [read_index(folder) for folder in folders]
        clips = [clip for index in indices for clip in index["clips"]]
        self._folders = folders
        self._rows = [sum(clip["latents"] for clip in index["clips"]) for index in indices]
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self.ids = [clip["id"] for clip in clips]
        self.texts = [clip["text"] for clip in clips]
        self.origins = [origin_of(clip) for clip in clips]
        self.shard_of = np.repeat(np.arange(count), [len(index["clips"]) for index in indices])
        self.first, self.latents = (np.array([clip[key] for clip in clips], dtype=np.int64) for key in ("first", "latents"))
        for folder, index in zip(folders, indices, strict=True):
            _verify(folder, index, whole=verify)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> TokenClip:
        shard = self.shard(int(self.shard_of[i]))
        rows = slice(int(self.first[i]), int(self.first[i] + self.latents[i]))
        bins = shard.bins[rows][1:] if shard.bins is not None else None
        frames, images = (None if array is None else array[rows] for array in (shard.frames, shard.images))
        return TokenClip(self.ids[i], shard.video[rows], bins, self.texts[i], frames, images, self.origins[i])

    def shard(self, number: int) -> Shard:
        """The mapped arrays of shard `number`. Raises BadData where they are not what the index says."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        folder = self._folders[number]
        video = _map(folder / "video.npy")
        bins = _map(folder / "actions.npy") if self.about["actions"] else None
        frames, images = (_map(path) if path.exists() else None for path in (folder / "frames.npy", folder / "images.npy"))
        for name, array, axes in (("video", video, 3), ("actions", bins, 3), ("frames", frames, 1), ("images", images, 3)):
            if array is not None and (array.ndim != axes or array.dtype.kind not in "iu" or len(array) != self._rows[number]):
                raise BadData(
                    f"{folder / name}.npy: got {array.dtype} {list(array.shape)}, expected whole numbers of {axes} axes and "
                    f"{self._rows[number]} rows; fix: delete the shard and encode again"
                )
        self._open[number] = Shard(video, bins, frames, images)
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[number]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of a latent."""
        return self.shard(0).video.shape[1:]

    @property
    def num_tokens(self) -> int:
        """Video tokens in the whole store."""
        return sum(self._rows) * int(np.prod(self.grid)) if self._rows else 0


def write_store(
    root: Path,
    about: dict,
    count: int,
    encode: Callable[[range], Iterable[TokenClip]],
    per_shard: int,
    done: Callable[[int], None],
    same: Callable[[dict, dict], bool] = operator.eq,
) -> TokenStore:
    """Encode clips 0..count-1 into a store at `root`; goes on where an earlier try with the same `about` ended.

    encode(range) yields the clips of a shard in order. about: JSON that pins what made it (tokenizer hash, clip ids ...).
    done(n) is told how many clips are finished. same(found, about) says whether a store that is there is one of these, as the
    words of an earlier version may differ. Another process that encodes the same store takes other shards.
    Raises BadData when the folder holds a store of something else.
    """
    root = Path(root)
    about = description(about, count, per_shard)
    described = root / DESCRIPTION
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_dead_parts(root)
        if not described.exists():
            write_atomic(described, json.dumps(about, indent=1).encode(), overwrite=True)
        if not same(read_description(described), about):
            raise BadData(f"{root}: holds tokens of another tokenizer or data set; fix: delete it or choose another folder")
        for wait in (False, True):  # first what nobody works on, then wait for what another process has not finished
            finished = 0
            for shard in range(about["shards"]):
                clips = range(shard * per_shard, min(count, (shard + 1) * per_shard))
                final = root / f"shard-{shard:05d}"
                with locked(root / f".lock-{final.name}", wait) as mine:
                    if mine and not final.exists():
                        _write_shard(final, encode(clips), about["actions"])
                if final.exists():  # whoever wrote it
                    finished += len(clips)
                    done(finished)
        for lock in root.glob(".lock-*"):
            lock.unlink(missing_ok=True)
    except OSError as error:
        raise as_wfm_error(error, root) from error
    return TokenStore(root)


def description(about: dict, count: int, per_shard: int) -> dict:
    """What store.json says of a store with this `about`."""
    return json.loads(json.dumps(about | {"shards": -(-count // per_shard), "clips": count}))


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Holds the lock at `path` and yields True, or yields False when another process holds it and `wait` is not set."""
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _write_shard(final: Path, clips: Iterable[TokenClip], actions: bool) -> None:
    temporary = final.with_name(f".tmp-{final.name}")  # left behind by a killed run at most: the caller holds the shard's lock
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    videos, bins, frames, images, index, first = [], [], [], [], [], 0
    for clip in clips:
        videos.append(clip.video)
        if actions:
            assert clip.bins is not None, "every clip of such a store has actions"
            bins.append(np.concatenate((np.zeros((1, *clip.bins.shape[1:]), clip.bins.dtype), clip.bins)))
        if clip.frames is not None:
            frames.append(clip.frames)
        if clip.images is not None:
            images.append(clip.images)
        entry = {"id": clip.id, "text": clip.text, "first": first, "latents": len(clip.video)}
        index.append(entry if clip.origin is None else entry | {"frames": clip.origin.frames, "actions": clip.origin.actions})
        first += len(clip.video)
    for some in (frames, images):
        assert len(some) in (0, len(videos)), "either every clip of a store has them or none"
    np.save(temporary / "video.npy", np.concatenate(videos))
    np.save(temporary / "actions.npy", np.concatenate(bins) if actions else np.zeros(0, np.int16))
    if frames:
        np.save(temporary / "frames.npy", np.concatenate(frames).astype(np.int32))
    if images:
        np.save(temporary / "images.npy", np.concatenate(images))
    arrays = sorted(temporary.iterdir())
    hashes = {path.name: sha256_of(path) for path in arrays} | {"clips": _hash_of(index)}
    sizes = {path.name: path.stat().st_size for path in arrays}
    (temporary / INDEX).write_text(json.dumps({"sha256": hashes, "bytes": sizes, "clips": index}))
    for path in (*arrays, temporary / INDEX, temporary):
        fsync(path)
    os.rename(temporary, final)
    fsync(final.parent)


def origin_of(clip: dict) -> Origin | None:
    """Of an entry in a shard's table of clips; earlier versions wrote none."""
    return Origin(clip["id"], clip["text"], clip["frames"], clip["actions"]) if clip.keys() >= ORIGIN_KEYS else None


def read_description(path: Path) -> dict:
    """A JSON object of a store. Raises BadData."""
    try:
        data = read_json(path, TABLE_BYTES)
    except (OSError, ValueError) as error:
        raise BadData(f"{path.parent}: not a readable token store ({error}); fix: delete it and encode again") from error
    if not isinstance(data, dict):
        raise BadData(f"{path}: got a {type(data).__name__}, expected an object; fix: delete the store and encode again")
    return data


def read_index(folder: Path) -> dict:
    """A shard's episodes.json, with every number in range."""
    index = read_description(folder / INDEX)
    hashes, clips = index.get("sha256"), index.get("clips")
    sound, row = False, 0
    if isinstance(hashes, dict) and isinstance(clips, list) and {"video.npy", "actions.npy"} <= hashes.keys():
        # stores of earlier versions have no hash of the table
        sound = hashes.get("clips") in (None, _hash_of(clips))
    for clip in clips if clips is not None and sound else ():
        sound = sound and isinstance(clip, dict) and clip.keys() in (CLIP_KEYS, CLIP_KEYS | ORIGIN_KEYS) and clip["first"] == row
        sound = sound and isinstance(clip["latents"], int) and clip["latents"] > 0
        row += clip["latents"] if sound else 0
    if not sound:
        raise BadData(f"{folder / INDEX}: is damaged: its table of clips is not what was written; fix: delete the shard and encode again")
    return index


def _verify(folder: Path, index: dict, whole: bool) -> None:
    """Sizes always, as they cost nothing; the content too when `whole`."""
    for name, size in index.get("bytes", {}).items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != size:
            raise BadData(f"{folder / name}: got {found} bytes, expected {size}; fix: delete the shard and encode again")
    for name, digest in index["sha256"].items() if whole else ():
        if name != "clips" and (not (folder / name).is_file() or sha256_of(folder / name) != digest):
            raise BadData(f"{folder / name}: content differs from its recorded hash; fix: delete the shard and encode again")


def _hash_of(clips: list) -> str:
    return hashlib.sha256(json.dumps(clips, sort_keys=True).encode()).hexdigest()


def _map(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # the plain view: np.memmap's own slicing is slow
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be mapped ({error}); fix: delete the shard and encode again") from error
