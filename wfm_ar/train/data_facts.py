"""What the data are like, as far as a training run is fitted to them: how much, how fast, of what shape, and whether the camera moves."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.video import resize_crop
from wfm_ar.schema import ActionSchema, Schema

LOOKED_AT = 24  # clips whose pictures are looked at
OF_EACH = 4  # pictures of each of them
SIDE = 64  # pixels a side that they are made for that
ALIKE = 16  # grey levels of the 255 by which a pixel may differ from the median picture's


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Numbers of the training split as it is seen; a picture's size is that of most clips."""

    clips: int
    held_out: int
    frames: int
    median_frames: float
    fps: float
    height: int
    width: int
    still_share: float  # of the pixels that are those of the median picture
    channels: tuple[str, ...]  # of the actions, those that vary
    constant: tuple[str, ...]  # those that never do: they take no tokens
    texts: int  # different ones
    robots: int
    notes: tuple[str, ...]  # what opening the data said


def data_facts(train_set: EpisodeSet, val_set: EpisodeSet) -> DataFacts:
    """Headers of all clips are read, and a few pictures of some. Raises BadClip, BadData."""
    lengths = [train_set.num_frames(i) for i in range(len(train_set))]
    few = dict.fromkeys(np.linspace(0, len(train_set) - 1, min(LOOKED_AT, len(train_set))).astype(int).tolist())
    sizes: Counter[tuple[int, int]] = Counter()
    pictures = []
    for i in few:
        places = np.linspace(0, max(0, lengths[i] - 1), OF_EACH).astype(int)
        frames = np.concatenate([train_set.load_frames(i, int(at), 1) for at in places])
        sizes[frames.shape[1:3]] += 1
        pictures.append(resize_crop(frames, SIDE, SIDE, "stretch", str(train_set.path)))
    (height, width), _ = sizes.most_common(1)[0]
    schemas = _schemas(train_set.schema)
    return DataFacts(
        clips=len(train_set),
        held_out=0 if train_set is val_set else len(val_set),
        frames=sum(lengths),
        median_frames=float(np.median(lengths)),
        fps=max(episode.fps for episode in train_set),
        height=height,
        width=width,
        still_share=still_share(np.concatenate(pictures)),
        channels=tuple(channel.name for schema in schemas for channel in schema.channels if not channel.constant),
        constant=tuple(channel.name for schema in schemas for channel in schema.channels if channel.constant),
        texts=len({episode.text for episode in train_set if episode.text}),
        robots=len(schemas),
        notes=train_set.notes,
    )


def still_share(frames_NHWC: np.ndarray) -> float:
    """Share of the pixels of uint8 frames that are within ALIKE of the median picture: near 1 where the camera never moves."""
    median_HWC = np.median(frames_NHWC, axis=0)
    return float((np.abs(frames_NHWC - median_HWC).max(-1) <= ALIKE).mean())


def some_clips(episodes: EpisodeSet, count: int) -> EpisodeSet:
    """`count` of the clips, spread evenly over all of them."""
    if count >= len(episodes):
        return episodes
    return replace(episodes, episodes=tuple(episodes[int(i)] for i in np.linspace(0, len(episodes) - 1, count).round()))


def _schemas(schema: Schema | None) -> tuple[ActionSchema, ...]:
    if schema is None:
        return ()
    return (schema,) if isinstance(schema, ActionSchema) else tuple(part for _, part in schema.embodiments)
