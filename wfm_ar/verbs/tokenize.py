"""`wfm tokenize`: a clip to tokens, tokens back to the clip they hold, or a whole data set to token shards."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from wfm_ar.data.arrays import read_npy
from wfm_ar.data.claims import claim
from wfm_ar.data.files import refuse_existing
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.schema_file import SCHEMA
from wfm_ar.data.shards import TokenStore
from wfm_ar.data.splits import SPLITS
from wfm_ar.data.video import read_frames, write_video
from wfm_ar.data.views import check_flip, turned
from wfm_ar.errors import BadConfig, BadData, BadPrompt
from wfm_ar.framing import area_of
from wfm_ar.plain_text import print_lines
from wfm_ar.rollout.pictures import at_world_size, numbers_at_rate, told_of
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.inputs import refuse_inputs
from wfm_ar.verbs.outputs import write_array

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World
    from wfm_ar.tokenizers.video import VideoTokenizer


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/tokenize.yaml, which explains them."""

    world: str
    from_run: Path | None
    video: Path | None
    tokens: Path | None
    data: Path | None
    camera: str | None
    fps: float | None
    flip: str | None
    text: str
    crop: str | None
    prompt_fps: float | None
    frames: int | None
    out: Path
    workers: int
    clips_per_shard: int
    images: bool
    device: Literal["auto", "cpu", "cuda"]
    overwrite: bool

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.video, self.tokens, self.data)) != 1:
            raise BadConfig(
                "video, tokens and data: expected exactly one of them; fix: video=in.mp4 out=tokens.npy, tokens=tokens.npy out=out.mp4, "
                "or data=folder out=shards"
            )
        check_flip(self.flip)
        for key in ("camera", "fps"):
            if getattr(self, key) is not None and self.data is None:
                raise BadConfig(f"{key}: got {getattr(self, key)} without data=, expected a data set to read; fix: leave it out")
        if self.prompt_fps is not None and (self.video is None or not 0 < self.prompt_fps < float("inf")):
            raise BadConfig(f"prompt_fps: got {self.prompt_fps}, expected frames a second above 0, of a video=; fix: leave it out")
        if self.crop is not None and self.video is None:
            raise BadConfig(f"crop: got {self.crop!r} without video=; fix: leave it out (data= is fitted as in training)")
        if self.crop is not None:
            area_of(self.crop)  # which raises
        if self.from_run is not None and self.data is None:
            raise BadConfig(
                f"from_run: got {self.from_run} without data=, expected a data set to encode; fix: add data=..., or name world="
            )
        for key in ("workers", "clips_per_shard"):
            if getattr(self, key) < 1:
                raise BadConfig(f"{key}: got {getattr(self, key)}, expected at least 1; fix: {key}=1")
        suffix = "" if self.data else ".npy" if self.video else ".mp4"
        if suffix and self.out.suffix != suffix:
            raise BadConfig(f"out: got {self.out}, expected a name that ends in {suffix}; fix: out={self.out.with_suffix(suffix)}")


def run(settings: Settings) -> int:
    """Writes the tokens, the clip, or the shards."""
    if settings.data:
        return _shards(settings, settings.data)
    refuse_inputs([settings.out], {key: getattr(settings, key) for key in ("world", "video", "tokens")})
    with claim(settings.out):
        refuse_existing(settings.out, settings.overwrite)
        return _one(settings)


def _one(settings: Settings) -> int:
    """Writes the tokens of one clip, or the clip of some tokens."""
    from wfm_ar.rollout.world import load_world  # brings torch, as all imports inside functions here

    world = load_world(settings.world, device=device_named(settings.device))
    if settings.video:
        tokens = world.encode(_frames(settings, world))
        write_array(settings.out, tokens, overwrite=settings.overwrite)
        print(f"{settings.out}: tokens {list(tokens.shape)} [t, h, w], {len(np.unique(tokens))} different ones")
        return 0
    assert settings.tokens is not None, "one of the two is given"
    frames = world.decode(_tokens(settings.tokens))
    write_video(settings.out, frames, world.fps, overwrite=settings.overwrite)
    print(f"{settings.out}: {len(frames)} frames of {world.width}x{world.height}")
    return 0


def _shards(settings: Settings, data: Path) -> int:
    """A token store a split, out/train, out/val, ...: where stage 2 of a run looks for them when out is its tokens/ folder."""
    from wfm_ar.train.tokens import tokenize
    from wfm_ar.verbs.training_data import kept_schema, told_framing

    found = open_episodes(data, camera=settings.camera, fps=settings.fps, flip=settings.flip, text=settings.text)
    print_lines(found.about(), flush=True)
    if settings.from_run is not None and found.schema is not None and found.schema_made:
        found = replace(found, schema=kept_schema(settings.from_run / SCHEMA, found.schema))
    present = {episode.split for episode in found}
    tokenizer = _tokenizer(settings)
    told_framing(found, tokenizer.config)
    for split in (split for split in SPLITS if split in present):
        out = settings.out / split
        tokenize(tokenizer, found.of_split(split), out, settings.clips_per_shard, settings.workers, settings.images)
        store = TokenStore(out, verify=True)
        actions = "with actions" if store.about["actions"] else "no actions"
        print(
            f"{out}: {len(store)} clips, {store.num_tokens:,} video tokens, {actions}, {store.about['shards']} shards, every hash checked"
        )
    return 0


def _tokenizer(settings: Settings) -> "VideoTokenizer":
    """That of a training run, in the precision it was trained in, or that of a finished world."""
    device = device_named(settings.device)
    if settings.from_run is not None:
        from wfm_ar.train.stages import trained_video_tokenizer

        return trained_video_tokenizer(settings.from_run)[0].to(device)
    from wfm_ar.rollout.world import load_world

    return load_world(settings.world, device=device).parts.video_tokenizer


def _frames(settings: Settings, world: "World") -> np.ndarray:
    assert settings.video is not None
    told: list[str] = []
    kept = numbers_at_rate(settings.video, world, settings.prompt_fps, told)
    if settings.frames is not None and settings.frames > len(kept):
        got = f"frames: got {settings.frames}, but {settings.video} has {len(kept)} at the world's {world.fps:g} a second"
        raise BadPrompt(f"{got}, expected at most that; fix: give fewer")
    frames = turned(read_frames(settings.video, kept[: settings.frames]), settings.flip)
    if line := told_of(frames, world, settings.crop, str(settings.video)):
        told.append(line)
    if told:
        print(f"{settings.video}: {'; '.join(told)}")
    return at_world_size(frames, world, settings.crop, str(settings.video))


def _tokens(path: Path) -> np.ndarray:
    try:
        return read_npy(path)
    except BadData as error:
        raise BadPrompt(str(error)) from None
