"""A data set's folder appears when it is whole: it is filled under another name, then takes its place."""

import os
import shutil
from pathlib import Path

from wfm_ar.data.files import fsync
from wfm_ar.errors import OutputExists


def refuse_set(root: Path, overwrite: bool) -> None:
    """Raises OutputExists if something is at `root`, unless it is a data set (or empty) and overwriting was asked for."""
    if not os.path.lexists(root):
        return
    ours = root.is_dir() and (not any(root.iterdir()) or (root / "meta/info.json").is_file() or (root / "episodes.jsonl").is_file())
    if not (overwrite and ours):
        fix = "choose another name" if not ours else "choose another name or set overwrite=true"
        raise OutputExists(f"{root}: exists already, expected a free name; fix: {fix}")


def swap_in(part: Path, root: Path) -> None:
    """`part` takes the place of `root`; what was there goes only when the new one stands."""
    old = root.with_name(f".old-{root.name}-{os.getpid()}")
    if root.exists():
        os.rename(root, old)
    os.rename(part, root)
    fsync(root.absolute().parent)
    shutil.rmtree(old, ignore_errors=True)
