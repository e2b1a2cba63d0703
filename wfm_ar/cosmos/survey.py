"""What lies in a folder of downloaded weights: which files are which part of which release, read off the tensors inside.

File and folder names are not trusted, but for the small files whose tensors say nothing: mean_std.pt, its sibling for pictures
and aux_vars.pt. A folder may hold anything else too, as the published downloads do (guardrails, text encoders, other models of the
family): what is no network of ours is left out, with the reason.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wfm_ar.cosmos.loading import Checkpoint, open_checkpoint, shards_of
from wfm_ar.cosmos.recognise import recognise, release_of
from wfm_ar.cosmos.shapes import HEIGHT, WIDTH, Config, kind_of
from wfm_ar.errors import BadCheckpoint

SUFFIXES = (".pt", ".pth", ".jit", ".safetensors")
MEAN_STD, AUX_VARS = "mean_std.pt", "aux_vars.pt"
SMALL = (MEAN_STD, "image_mean_std.pt", AUX_VARS)


@dataclass(frozen=True, kw_only=True)
class Found:
    """One network's weights, in one file or in two halves."""

    part: str  # of a world: world_model, video_tokenizer, latent_tokenizer, diffusion_decoder
    release: str | None  # the published name, or None for other widths
    config: Config
    checkpoint: Checkpoint

    @property
    def folder(self) -> Path:
        return self.checkpoint.paths[0].parent

    @property
    def lacks(self) -> str:
        """The half that a tokenizer is without: "encoder", "decoder" or ""."""
        names = self.checkpoint.entries
        sides = ("encoder", "decoder") if "tokenizer" in self.part else ()
        return next((side for side in sides if not any(name.startswith(f"{side}.") for name in names)), "")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The networks of a folder, and why its other files of weights are none."""

    found: list[Found] = field(default_factory=list)
    refused: list[BadCheckpoint] = field(default_factory=list)  # damaged, or more than data: might have been any part
    foreign: list[BadCheckpoint] = field(default_factory=list)  # sound, but of something else

    def left_out(self) -> list[str]:
        """A line a file that is no network."""
        return [f"left out: {error.problem}" for error in (*self.refused, *self.foreign)]


def weight_files(src: str | Path) -> list[Path]:
    """The checkpoints under a folder, or the file itself; shards stand for themselves by their index. Raises BadCheckpoint."""
    src = Path(src)
    if src.is_file():
        return [src]
    if not src.is_dir():
        raise BadCheckpoint(f"{src}: no such file or folder, expected downloaded Cosmos weights; fix: check the path")
    there = sorted(_files(src))
    indexes = [path for path in there if path.name.endswith(".safetensors.index.json")]
    shards = {path.parent / name for path in indexes for name in shards_of(path)[0]}
    files = [path for path in there if path.suffix in SUFFIXES and path.is_file() and path.name not in SMALL]
    return indexes + [path for path in files if path not in shards]


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, through links to folders too, as large downloads lie on other disks; each folder once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place) / name for name in names)


def survey(src: str | Path, height: int = HEIGHT, width: int = WIDTH) -> Survey:
    """Every network under `src`; a tokenizer's encoder and decoder archives in one folder make one.

    Tokenizers get the picture size height x width. Raises BadCheckpoint where `src` is a file of no network, or a folder of none but such.
    """
    made = Survey()
    halves: dict[tuple[Path, Config], dict[str, Path]] = {}  # one folder may hold several tokenizers
    whole: dict[tuple[Path, Config], Found] = {}
    for path in weight_files(src):
        try:
            checkpoint = open_checkpoint(path)
        except BadCheckpoint as error:
            made.refused.append(error)
            continue
        try:
            one = _found(checkpoint, height, width)
        except BadCheckpoint as error:
            made.foreign.append(error)
            continue
        if "tokenizer" not in one.part:
            made.found.append(one)
        elif one.lacks:
            halves.setdefault((path.parent, one.config), {})["decoder" if one.lacks == "encoder" else "encoder"] = path
        else:
            whole.setdefault((path.parent, one.config), one)  # autoencoder.jit beside model.pt: the same weights again
    for key in dict.fromkeys((*halves, *whole)):
        paths = halves.get(key, {})
        # Both archives are what the published code runs; model.pt is what its training goes on from.
        if len(paths) == 2 or key not in whole:
            made.found.append(_found(open_checkpoint(*(paths[side] for side in sorted(paths, reverse=True))), height, width))
        else:
            made.found.append(whole[key])
    if not made.found:
        none = f"{src}: no weights (.pt, .jit, .safetensors), expected a downloaded Cosmos release; fix: check the path"
        raise next(iter((*made.refused, *made.foreign)), BadCheckpoint(none))
    return made


def beside(found: Found, name: str) -> Path | None:
    """A small file in the network's own folder."""
    path = found.folder / name
    return path if path.is_file() else None


def _found(checkpoint: Checkpoint, height: int, width: int) -> Found:
    config = recognise(checkpoint.shapes(), checkpoint.where, height, width)
    return Found(part=kind_of(config).part, release=release_of(config), config=config, checkpoint=checkpoint)
