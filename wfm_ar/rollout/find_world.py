"""From the name of a world to its folder. It looks at names alone and imports no torch: a wrong name is told at once."""

import re
from pathlib import Path
from typing import Any

from wfm_ar.data import hub
from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadCheckpoint, BadData, nearest

SETTINGS = "world.json"
SETTINGS_BYTES = 16 << 20
STAGES = {
    "video_tokenizer",
    "frame_predictor",
    "world_model",
    "diffusion_decoder",
    "inverse_dynamics",
}  # folders of a training run with checkpoints
SHIPPED = Path(__file__).parent.parent / "assets"


def find_world(name: str | Path) -> Path:
    """The folder of a shipped world's name, of a path, or of an address hf://owner/name[@revision], which is downloaded.

    Raises BadCheckpoint, naming the shipped worlds; HubError, BadConfig and MissingDependency for addresses.
    """
    if address := hub.address_of(name, hub.MODELS):
        return hub.download(address, SETTINGS, listed_files)
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{SETTINGS}"))
    if str(name) in shipped:
        return SHIPPED / str(name)
    if (Path(name) / SETTINGS).is_file():
        return Path(name)
    refuse_run(Path(name))
    what = f"no {SETTINGS} in it" if Path(name).is_dir() else "no such folder or shipped world"
    raise BadCheckpoint(
        f'world "{name}": {what}{nearest(str(name), shipped)}, expected one of {shipped} or a world folder; fix: check the name'
    )


def listed_files(settings: Path) -> dict[str, Any]:
    """What a world.json says of the world's other files, by name; its reader checks them. Raises BadCheckpoint."""
    try:
        content = read_json(settings, SETTINGS_BYTES)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{settings}: cannot be read ({error}), expected JSON; fix: copy the world again") from None
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise BadCheckpoint(f"{settings}: files: expected an object of names with bytes and sha256; fix: copy the world again")
    return files


def format_of(folder: Path) -> str:
    """The format that a folder's world.json names; "" where it cannot be read, which a reader then tells of."""
    try:
        settings = read_json(folder / SETTINGS, SETTINGS_BYTES)
    except (OSError, ValueError):
        return ""
    found = settings.get("format") if isinstance(settings, dict) else None
    return found if isinstance(found, str) else ""


def refuse_run(path: Path) -> None:
    """Raises BadCheckpoint for the folder of a training run, or a place in one, that says how far the run has come."""
    for run in (path, path.parent, path.parent.parent):
        places = [place for place in run.glob("*/step-*") if place.parent.name in STAGES and re.fullmatch(r"step-\d+", place.name)]
        found = [(place.stat().st_mtime, place) for place in places]
        if not found:
            continue
        newest = max(found)[1]
        told = f'world "{path}": belongs to the training run {run}, expected a world folder'
        if (run / "world" / SETTINGS).is_file():
            raise BadCheckpoint(f"{told}; fix: world={run / 'world'}")
        done = f"its newest checkpoint is of stage {newest.parent.name}, step {int(newest.name.removeprefix('step-'))}"
        raise BadCheckpoint(
            f"{told}: it has made none yet, {done}; fix: let it end (the same `wfm train` goes on where it stopped), "
            "or where every stage has a checkpoint, the same with stage=world packs them"
        )


def samples_of(name: str | Path) -> Path:
    """The few episodes that came with a world: a data set folder. Raises BadData where there are none."""
    folder = find_world(name) / "samples"
    if not folder.is_dir():
        raise BadData(f"{folder}: is not there, expected sample episodes; fix: name a data set with data=...")
    return folder
