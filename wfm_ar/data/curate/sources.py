"""The recordings to curate: any data set that opens, or a folder of videos of which some are broken."""

from pathlib import Path

from wfm_ar.data.episodes import INDEX, Episode, EpisodeSet
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.splits import VAL_FRACTION, split_of
from wfm_ar.data.video import VIDEO_SUFFIXES, video_info
from wfm_ar.errors import BadClip, WfmError


def open_sources(src: Path) -> EpisodeSet:
    """Like open_episodes; but in a bare folder of videos a file whose header cannot be read is an episode too, so that it is
    dropped and reported like anything else that is not fit. Raises BadData, BadClip."""
    try:
        return open_episodes(src)
    except WfmError:
        files = sorted(path for path in src.rglob("*") if path.is_file()) if src.is_dir() else []
        names = {path.relative_to(src).as_posix(): path for path in files}
        names = {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.split("/"))}
        videos = {name: path for name, path in names.items() if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_symlink()}
        others = {path.suffix.lower() for path in names.values()} & {".npz", ".parquet", ".hdf5", ".h5"}
        if (src / INDEX).exists() or others or not any(_rate(path) for path in videos.values()):
            raise  # not a bare folder of videos, or nothing in it is one
    splits = {name: split_of(name, VAL_FRACTION) for name in videos}
    if "val" not in splits.values():
        splits[next(name for name, path in videos.items() if _rate(path))] = "val"
    episodes = [
        # a rate is needed to count seconds with; nothing is ever read at it
        Episode(id=name, video=path, text=None, actions=None, state=None, fps=_rate(path) or 1.0, split=splits[name])
        for name, path in videos.items()
    ]
    return EpisodeSet(path=src, format="videos", schema=None, episodes=tuple(episodes))


def _rate(path: Path) -> float:
    """Frames a second, 0 where the header cannot be read."""
    try:
        return video_info(path).fps
    except BadClip:
        return 0.0
