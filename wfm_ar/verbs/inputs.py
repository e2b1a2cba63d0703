"""No command writes over what it reads, whatever `overwrite` says.

Asked before any work with all the files and folders that will be written. It compares what the file system says, so links, other
spellings and paths through `..` do not hide that two names are one file.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import OutputExists, WfmError

DATA = ("data", "src", "path", "dynamics_data", "policy_data")  # keys that name data sets, whose files are known


def refuse_inputs(outputs: Iterable[Path], inputs: Mapping[str, str | Path | None]) -> None:
    """Raises OutputExists where one of `outputs` is an input, belongs to one, or is a folder that holds one.

    outputs: what will be replaced where it is there. inputs: by key; a data set, a world folder, or a file. What does not exist, and
    names that are no paths (a shipped world), are passed over.
    """
    there = [out for out in outputs if os.path.lexists(out)]
    for key, value in inputs.items() if there else ():
        for path in _parts(value):
            for out in there:
                if how := _clash(out, path, key):
                    kind = "a file" if out.is_file() else "a folder"
                    told = f"{out}: {how} {key}={value} of this command, expected {kind} that it does not read"
                    raise OutputExists(f"{told}; fix: choose another name (overwrite=true never replaces an input)")


def _parts(value: str | Path | None) -> Iterator[Path]:
    """The existing paths that an input names; several data sets are joined by ":"."""
    if value is None:
        return
    names = [str(value)] if os.path.exists(value) else str(value).split(os.pathsep)
    yield from (Path(name) for name in names if name and os.path.exists(name))


def _clash(out: Path, path: Path, key: str) -> str:
    """How writing `out` would harm the input `path`, in words; "" where it does not."""
    try:
        if os.path.samefile(out, path):
            return "is the input"
    except OSError:  # a dangling link, say
        return ""
    real_out, real_path = Path(os.path.realpath(out)), Path(os.path.realpath(path))
    if real_path.is_relative_to(real_out):
        return "holds the input"
    if not (path.is_dir() and out.is_file()):
        return ""
    belongs = any(os.path.samefile(out, file) for file in _files_of(path)) if key in DATA else real_out.is_relative_to(real_path)
    return "belongs to the input" if belongs else ""


def _files_of(data: Path) -> Iterator[Path]:
    """The files of a data set. One that cannot be opened has none: it is refused for that, later."""
    try:
        episodes = open_episodes(data)
    except WfmError:
        return
    files = {file for episode in episodes for file in (episode.video, episode.actions, episode.state) if file is not None}
    files |= {file.with_suffix(".txt") for file in files} | set((data / "meta").rglob("*"))
    files |= {path for path in data.iterdir() if path.suffix in (".json", ".jsonl")}
    yield from (file for file in files if file.is_file())
