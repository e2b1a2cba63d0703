"""What lies in a folder of downloaded weights: which files are which part of which release, read off the tensors inside.

File and folder names are not trusted, but for the two small files whose tensors say nothing: mean_std.pt and aux_vars.pt.
"""

from dataclasses import dataclass
from pathlib import Path

from wfm_ar.cosmos.loading import Checkpoint, open_checkpoint
from wfm_ar.cosmos.names import part_of
from wfm_ar.cosmos.recognise import recognise, release_of
from wfm_ar.cosmos.shapes import HEIGHT, WIDTH, Config, kind_of
from wfm_ar.errors import BadCheckpoint

SUFFIXES = (".pt", ".pth", ".jit", ".safetensors")
MEAN_STD, AUX_VARS = "mean_std.pt", "aux_vars.pt"


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


def weight_files(src: str | Path) -> list[Path]:
    """The checkpoints under a folder, or the file itself; shards stand for themselves by their index. Raises BadCheckpoint."""
    src = Path(src)
    if src.is_file():
        return [src]
    if not src.is_dir():
        raise BadCheckpoint(f"{src}: no such file or folder, expected downloaded Cosmos weights; fix: check the path")
    indexes = sorted(src.rglob("*.safetensors.index.json"))
    sharded = {path.parent for path in indexes}
    files = [
        path for path in sorted(src.rglob("*")) if path.suffix in SUFFIXES and path.is_file() and path.name not in (MEAN_STD, AUX_VARS)
    ]
    return indexes + [path for path in files if not (path.suffix == ".safetensors" and path.parent in sharded)]


def survey(src: str | Path, height: int = HEIGHT, width: int = WIDTH) -> list[Found]:
    """Every network under `src`; a tokenizer's encoder and decoder archives in one folder make one. Raises BadCheckpoint.

    Tokenizers get the picture size height x width.
    """
    found: list[Found] = []
    halves: dict[tuple[Path, str], Path] = {}
    whole: set[Path] = set()
    for path in weight_files(src):
        checkpoint = open_checkpoint(path)
        names = checkpoint.shapes()
        if part_of(names) == "tokenizer":
            sides = {side for side in ("encoder", "decoder") if any(name.startswith(f"{side}.") for name in names)}
            if len(sides) == 1:
                halves[path.parent, sides.pop()] = path
                continue
            if path.parent in whole:
                continue  # autoencoder.jit beside model.pt: the same weights again
            whole.add(path.parent)
        found.append(_found(checkpoint, height, width))
    for folder in sorted({folder for folder, _ in halves}):
        if folder in whole:
            continue
        paths = [halves[folder, side] for side in ("encoder", "decoder") if (folder, side) in halves]
        found.append(_found(open_checkpoint(*paths), height, width))
    return found


def beside(found: Found, name: str) -> Path | None:
    """A small file in the network's own folder."""
    path = found.folder / name
    return path if path.is_file() else None


def _found(checkpoint: Checkpoint, height: int, width: int) -> Found:
    config = recognise(checkpoint.shapes(), checkpoint.where, height, width)
    return Found(part=kind_of(config).part, release=release_of(config), config=config, checkpoint=checkpoint)
