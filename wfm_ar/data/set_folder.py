"""Which folders a data set may be written to, and what files about a set are called."""

import hashlib
import os
from pathlib import Path

from wfm_ar.data.claims import claim
from wfm_ar.errors import OutputExists


def name_of_set(path: Path) -> str:
    """A name for files about the data at `path`: its own, and some letters that tell sets of one name apart."""
    whole = os.pathsep.join(os.path.abspath(part) for part in str(path).split(os.pathsep))
    last = Path(whole)
    name = last.parent.name if last.name == "episodes.jsonl" else last.stem
    return f"{name}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:6]}"


def refuse_set(root: Path, overwrite: bool) -> None:
    """Raises OutputExists if something is at `root`, unless it is a data set (or empty) and overwriting was asked for; and what
    `claim` raises, so that a place that cannot be written is told before the work."""
    with claim(root):  # what a process that was stopped had set aside is back before it is looked for
        _refuse_set(root, overwrite)


def _refuse_set(root: Path, overwrite: bool) -> None:
    if not os.path.lexists(root):
        return
    ours = root.is_dir() and (not any(root.iterdir()) or (root / "meta/info.json").is_file() or (root / "episodes.jsonl").is_file())
    if not (overwrite and ours):
        fix = "choose another name" if not ours else "choose another name or set overwrite=true"
        raise OutputExists(f"{root}: exists already, expected a free name; fix: {fix}")
