"""`wfm samples`: a recorded episode that comes with a world, as the files that the other commands take.

start.png      its first picture            in.mp4         its first frames
goal.png       its last picture             actions.npy    all its actions, float32 [T-1, A]
text.txt       what it was told             prompts.jsonl  prompts for `wfm generate batch=`
episodes/      every sample of the world, as a data set to train on
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wfm_ar.data.claims import whole_folder
from wfm_ar.data.episodes import EpisodeSet, copy_episodes
from wfm_ar.data.files import write_atomic
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import write_image, write_video
from wfm_ar.errors import BadConfig, OutputExists, nearest
from wfm_ar.rollout.find_world import samples_of
from wfm_ar.verbs.inputs import refuse_inputs
from wfm_ar.verbs.outputs import write_array


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/samples.yaml, which explains them."""

    world: str
    episode: str | None
    prompt_frames: int
    out: Path
    overwrite: bool

    def __post_init__(self) -> None:
        if self.prompt_frames < 1:
            raise BadConfig(f"prompt_frames: got {self.prompt_frames}, expected at least 1; fix: prompt_frames=9")


def run(settings: Settings) -> int:
    """Writes the folder and prints commands to go on with."""
    samples = open_episodes(samples_of(settings.world))
    index = _chosen(samples, settings.episode)
    refuse_inputs([settings.out], {"world": settings.world})
    if settings.out.exists() and not settings.out.is_dir():
        raise OutputExists(f"{settings.out}: exists already and is a file, expected a new folder; fix: choose another out=")
    with whole_folder(settings.out, overwrite=settings.overwrite) as part:
        actions, text = _write(part, samples, index, settings.prompt_frames)
        copy_episodes(_parted(samples), range(len(samples)), part / "episodes")
    print(f"{settings.out}: episode {samples[index].id} of world {settings.world}, and all {len(samples)} samples in episodes/")
    for command in _commands(settings, actions, text):
        print(f"  {command}")
    return 0


def _chosen(samples: EpisodeSet, wanted: str | None) -> int:
    """The index of the episode that was asked for, or of the first that pushes something."""
    ids = [episode.id for episode in samples]
    if wanted is None:
        pushes = [i for i, episode in enumerate(samples) if (episode.text or "").startswith("push")]
        return (pushes or [0])[0]
    if wanted not in ids:
        expected = f"expected one of {', '.join(ids)}"
        raise BadConfig(f"episode: got {wanted!r}{nearest(wanted, ids)}, {expected}; fix: leave it out for the first push")
    return ids.index(wanted)


def _write(folder: Path, samples: EpisodeSet, index: int, count: int) -> tuple[bool, str | None]:
    """The files of one episode -> (whether it has actions, its text)."""
    episode, frames = samples[index], samples.load_frames(index)
    write_image(folder / "start.png", frames[0])
    write_image(folder / "goal.png", frames[-1])
    write_video(folder / "in.mp4", frames[:count], episode.fps, lossless=True)
    actions = samples.load_actions(index)
    if actions is not None:
        write_array(folder / "actions.npy", np.asarray(actions, np.float32), overwrite=False)
    if episode.text:
        write_atomic(folder / "text.txt", f"{episode.text}\n".encode())
    start = {"image": "start.png", "frames": len(frames)}
    rows = [{"id": f"imagined-{seed}", **start, "seed": seed} | ({"text": episode.text} if episode.text else {}) for seed in (0, 1)]
    if actions is not None:
        rows.append({"id": "driven", **start, "actions": "actions.npy"})
    write_atomic(folder / "prompts.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return actions is not None, episode.text


def _parted(samples: EpisodeSet) -> EpisodeSet:
    """The samples as a set to train on: the last quarter is held out."""
    train = len(samples) - max(1, len(samples) // 4) if len(samples) > 1 else 1
    parted = (replace(episode, split="train" if i < train else "val") for i, episode in enumerate(samples))
    return replace(samples, episodes=tuple(parted))


def _commands(settings: Settings, actions: bool, text: str | None) -> Iterator[str]:
    """What to try next, as typed."""
    world, file = shlex.quote(f"world={settings.world}"), lambda key, name: shlex.quote(f"{key}={settings.out / name}")
    if text:
        yield f"wfm generate {world} {file('image', 'start.png')} {shlex.quote(f'text={text}')} out=told.mp4"
    if actions:
        yield f"wfm generate {world} {file('video', 'in.mp4')} {file('actions', 'actions.npy')} frames=33 out=driven.mp4"
    yield f"wfm plan {world} {file('image', 'start.png')} {file('goal', 'goal.png')} out=plan.mp4"
