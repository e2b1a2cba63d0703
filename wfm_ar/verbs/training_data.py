"""What a training run learns from: the data as it was found, its two splits, and the action schema the run keeps."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.files import write_atomic
from wfm_ar.data.formats import mix, open_episodes
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.json_files import read_json
from wfm_ar.data.schema_file import SCHEMA
from wfm_ar.errors import BadData
from wfm_ar.framing import framing_line
from wfm_ar.plain_text import print_lines
from wfm_ar.schema import Schema, channels_of, same_channels, same_rate, schema_from_json
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train.clips import AT_ONCE, Clips
from wfm_ar.train.data_facts import some_clips

LOOKED_AT = 8  # episodes whose picture size and decoding are looked at
FEWEST_HELD_OUT = 16  # held-out episodes that are left where some are left out
MEASURED = 3.0  # seconds after which no more clips are decoded to measure how fast that is


def training_sets(data: Path, run: Path, most: int | None = None, **view: Any) -> tuple[EpisodeSet, EpisodeSet]:
    """The training and the held-out episodes, and on the terminal what was found. Where none is held out, those trained on are both.

    most: training episodes that are used, spread evenly over all, and a tenth as many held-out ones; None = all.
    view: camera, fps, flip, as for open_episodes.
    """
    found = open_episodes(data, **view)
    print_lines(found.about(), flush=True)
    if found.schema is None:
        _say_mixed_rates(found)
    if found.schema is not None and found.schema_made:
        found = replace(found, schema=kept_schema(run / SCHEMA, found.schema))
    train_set, val_set = parted(found)
    if most is not None and most < len(train_set):
        print(f"{data}: {most} of {len(train_set)} training episodes are used (episodes=)", flush=True)
        alone, train_set = train_set is not val_set, some_clips(train_set, most)
        val_set = some_clips(val_set, max(FEWEST_HELD_OUT, most // 10)) if alone else train_set
    if train_set is val_set:
        clips = "its one episode is trained on and" if len(found) == 1 else "none of its episodes is held out: those trained on are"
        print(f"{data}: {clips} validated with: validation says nothing of clips not seen", flush=True)
    return train_set, val_set


def _say_mixed_rates(found: EpisodeSet) -> None:
    """A line where clips without actions are of several rates: actions would hold each robot's, these have only the world's."""
    rates = Counter(episode.fps for episode in found)
    if same_rate(min(rates), max(rates)):
        return
    ((most, count),) = rates.most_common(1)
    print(
        f"note: {found.path}: clips of {min(rates):g} to {max(rates):g} frames a second, {count} of {len(found)} of {most:g}: each "
        f"is learnt frame by frame, and the world shows {most:g} a second; fix: fps={min(rates):g} makes all of them that slow",
        flush=True,
    )


def parted(found: EpisodeSet) -> tuple[EpisodeSet, EpisodeSet]:
    """The episodes to train on and those held out; where none is held out, those trained on are both. Raises BadData."""
    if len(found) == 1 or not any(episode.split == "val" for episode in found):
        train_set = found if len(found) == 1 else found.of_split("train")
        return train_set, train_set
    return found.of_split("train"), found.of_split("val")


def frame_cache(
    root: Path, gigabytes: float, sets: Sequence[EpisodeSet], tokenizer: VideoTokenizerConfig, *, sharers: int, workers: int, told: bool
) -> FrameCache:
    """The cache of the run's decoded frames, without those of data it has no more; told: it says what comes to lie there, and when.

    sharers: processes that fill it; workers: threads of each that decode.
    """
    clips = [Clips(one, tokenizer) for one in {id(one): one for one in sets}.values()]
    cache = FrameCache(root, gigabytes * 1e9, sharers)
    if cache.used:
        cache.drop_others({one.key(i) for one in clips for i in range(len(one))})
    if told:
        frame_bytes, frames = tokenizer.height * tokenizer.width * 3, sum(one.num_frames(i) for one in clips for i in range(len(one)))
        most, missing = cache.used + (cache.most - cache.used) * sharers, frames - cache.used // frame_bytes
        line = (
            f"{root}: frames are decoded once and kept here, {_bytes(frames * frame_bytes)} for all of them, {_bytes(cache.used)} are there"
        )
        print(line + (f"; at most {_bytes(most)} (frame_cache=)" if frames * frame_bytes > most else ""), flush=True)
        missing = min(missing, int(most - cache.used) // frame_bytes)
        if missing > 0 and (speed := decoding_speed(clips[0], workers) * sharers):
            line = f"{root}: {missing} frames are still to be decoded, about {_time(missing / speed)} in the first pass over the data"
            print(f"{line} ({speed:.3g} frames/s with {workers} thread{'s' * (workers > 1)}, measured on a few clips)", flush=True)
    return cache


def decoding_speed(clips: Clips, workers: int) -> float:
    """Frames a second that `workers` threads decode and resize: of stretches of a few clips, for MEASURED seconds; 0: too few to tell."""
    stretches = [(i, count // 2, min(AT_ONCE, count - count // 2)) for i in _few(clips.episodes) if (count := clips.num_frames(i))]
    began = time.monotonic()

    def decode(stretch: tuple[int, int, int]) -> int:
        return len(clips.load(*stretch)) if time.monotonic() - began < MEASURED else 0

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(decode, stretches)) / (time.monotonic() - began)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _few(episodes: EpisodeSet) -> list[int]:
    """LOOKED_AT episodes, evenly spaced."""
    return list(dict.fromkeys(np.linspace(0, len(episodes) - 1, min(LOOKED_AT, len(episodes))).astype(int).tolist()))


def told_framing(episodes: EpisodeSet, tokenizer: VideoTokenizerConfig) -> None:
    """Says how the pictures become the tokenizer's size, and what of them is lost; a few episodes are looked at."""
    sizes = [episodes.load_frames(i, 0, 1).shape[1:3] for i in _few(episodes)]
    print(f"{episodes.path}: {framing_line(sizes, tokenizer.height, tokenizer.width, tokenizer.crop, str(episodes.path))}", flush=True)


def policy_set(data: str, train_set: EpisodeSet, **view: Any) -> EpisodeSet:
    """The training episodes that the steps on the policy alone are of. Raises BadData where their actions are not `train_set`'s."""
    return _beside("policy", data, train_set, view)


def dynamics_set(data: Path, train_set: EpisodeSet, **view: Any) -> EpisodeSet:
    """`train_set` with the training episodes of more data. Raises BadData where their actions are not `train_set`'s."""
    return mix([train_set, _beside("dynamics", str(data), train_set, view)])


def _beside(name: str, data: str, train_set: EpisodeSet, view: dict[str, Any]) -> EpisodeSet:
    """The training episodes of the setting `name`_data."""
    found = open_episodes(data, **view)
    print_lines(f"{name}: {found.about()}", flush=True)
    own, expected = found.schema, train_set.schema
    if own is not None and expected is not None and found.schema_made and same_channels(own, expected):
        own = expected  # ranges found in data: the run's hold
    if own is None or expected is None:
        difference = "no actions there, or none in the run's data"
    else:
        difference = expected.diff(own)
    if difference:
        raise BadData(f"{data}: {name}_data has other actions than data ({difference[:200]}); fix: give episodes of the same robot")
    return replace(found, schema=own).of_split("train")


def kept_schema(path: Path, made: Schema) -> Schema:
    """The action schema a run goes on with: ranges found in data are kept in the run, as more data may have others.

    Raises BadData where the kept one is of other channels.
    """
    try:
        kept = schema_from_json(read_json(path))
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(made.to_json(), indent=2).encode() + b"\n", overwrite=True)  # every rank writes the same
        return made
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read ({error}), expected an action schema; fix: choose another run=") from None
    if not same_channels(kept, made):
        raise BadData(
            f"{path}: this run has actions {channels_of(kept)}, expected those of the data, {channels_of(made)}; fix: choose another run="
        )
    if difference := kept.diff(made):
        print(f"{path}: the run's action ranges are kept; the data would now give others ({difference[:200]})", flush=True)
    return kept
