"""A kept piece of a source -> the files of a clip: cut out, one size, one rate; copied where nothing has to change."""

from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.curate.looks import chunks
from wfm_ar.data.curate.retime import cut_state, joined_actions, kept_frames, rules_of
from wfm_ar.data.curate.settings import CurateConfig
from wfm_ar.data.episodes import Episode, EpisodeSet, write_episode
from wfm_ar.data.files import copy_atomic
from wfm_ar.data.video import resize_crop, video_info
from wfm_ar.schema import ActionSchema


def write_piece(
    episodes: EpisodeSet, index: int, start: int, end: int, whole: bool, clip: str, out: Path, config: CurateConfig
) -> dict[str, Any]:
    """Writes frames start..end of a source as the clip `clip` below `out` and returns its record for `write_episodes`.

    Raises BadClip, BadData, BadActions, NoSpace.
    """
    episode = episodes[index]
    kept = kept_frames(end - start, episode.fps, config.fps)
    fps = episode.fps if config.fps is None or len(kept) == end - start else float(config.fps)
    if whole and len(kept) == end - start and _may_copy(episodes, index, config):
        return _copied(episode, clip, out, config)
    extra: dict[str, Any] = {} if getattr(episode, "embodiment", None) is None else {"embodiment": episode.embodiment}
    actions = None if config.actions == "drop" else episodes.load_actions(index)
    if actions is not None:
        actions = actions[start : end - 1]
        if len(kept) < end - start:
            assert isinstance(episodes.schema, ActionSchema), "one robot: several are refused before"
            actions = joined_actions(actions, kept, rules_of(episodes.schema, config.actions))
    state = episodes.load_state(index)
    if state is not None:
        state = cut_state(state, episodes.num_frames(index), start + kept)
    return write_episode(
        out,
        id=clip,
        frames_THWC=_frames(episodes, index, start, end, kept, config),
        fps=fps,
        split=episode.split,
        text=episode.text,
        actions=actions,
        state=state,
        crf=config.crf,
        overwrite=True,  # what a run that was killed here left behind
        **extra,
    )


def _copied(episode: Episode, clip: str, out: Path, config: CurateConfig) -> dict[str, Any]:
    """Every file of the episode byte for byte: nothing has to change, so nothing is lost."""
    record: dict[str, Any] = {"id": clip, "text": episode.text, "fps": episode.fps, "split": episode.split}
    if getattr(episode, "embodiment", None) is not None:
        record["embodiment"] = episode.embodiment
    for key, folder in (("video", "videos"), ("actions", "actions"), ("state", "states")):
        source = getattr(episode, key)
        if source is not None and not (key == "actions" and config.actions == "drop"):
            record[key] = f"{folder}/{clip}{source.suffix}"
            target = out / record[key]
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_atomic(source, target, overwrite=True)
    return record


def _frames(episodes: EpisodeSet, index: int, start: int, end: int, kept: np.ndarray, config: CurateConfig) -> np.ndarray:
    """uint8 [len(kept), H, W, 3] in the wanted size; only kept frames are held in it."""
    parts, first = [], 0
    for frames_THWC in chunks(episodes, index, start, end):
        own = kept[(kept >= first) & (kept < first + len(frames_THWC))] - first
        first += len(frames_THWC)
        if len(own):
            height, width = _size(frames_THWC.shape[1:3], config)
            parts.append(resize_crop(frames_THWC[own], height, width))
    return np.concatenate(parts)


def _size(old: tuple[int, int], config: CurateConfig) -> tuple[int, int]:
    """The wanted size; where none is asked for, the old one without the odd row or column that H.264 cannot store."""
    if config.height is not None and config.width is not None:
        return config.height, config.width
    return old[0] - old[0] % 2, old[1] - old[1] % 2


def _may_copy(episodes: EpisodeSet, index: int, config: CurateConfig) -> bool:
    """True for an mp4 of its own, in the wanted size, whose container says the episode's rate."""
    video = episodes[index].video
    if episodes.format not in ("episodes", "videos") or not isinstance(video, Path) or video.suffix.lower() != ".mp4":
        return False
    info = video_info(video)
    wanted = config.height is None or (info.height, info.width) == (config.height, config.width)
    return wanted and abs(info.fps - episodes[index].fps) <= 0.001 * info.fps
