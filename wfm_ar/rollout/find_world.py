"""From the name of a world to its folder. It looks at names alone and imports no torch: a wrong name is told at once."""

from pathlib import Path

from wfm_ar.errors import BadCheckpoint, BadData, nearest

SETTINGS = "world.json"
SHIPPED = Path(__file__).parent.parent / "assets"


def find_world(name: str | Path) -> Path:
    """The folder of a shipped world's name or of a path. Raises BadCheckpoint, naming the shipped worlds."""
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{SETTINGS}"))
    if str(name) in shipped:
        return SHIPPED / str(name)
    if (Path(name) / SETTINGS).is_file():
        return Path(name)
    what = f"no {SETTINGS} in it" if Path(name).is_dir() else "no such folder or shipped world"
    raise BadCheckpoint(
        f'world "{name}": {what}{nearest(str(name), shipped)}, expected one of {shipped} or a world folder; fix: check the name'
    )


def samples_of(name: str | Path) -> Path:
    """The few episodes that came with a world: a data set folder. Raises BadData where there are none."""
    folder = find_world(name) / "samples"
    if not folder.is_dir():
        raise BadData(f"{folder}: is not there, expected sample episodes; fix: name a data set with data=...")
    return folder
