"""`wfm data check`: one line a defect on stdout, or a summary of a sound set."""

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/data_check.yaml, which explains them."""

    path: Path
    decode: bool


def run(settings: Settings) -> int:
    """Prints what was found; 0 for a sound set, 2 for one with defects."""
    from wfm_ar.data.check import check_data, summarize

    defects = check_data(settings.path, decode=settings.decode, on_progress=_say if sys.stderr.isatty() else None)
    for defect in defects:
        print(defect)
    if defects:
        plural = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        print(f"wfm data check: {settings.path}: {plural} found, expected none; fix: as each line says", file=sys.stderr)
        return 2
    print(f"{settings.path}: {summarize(settings.path)}; no defects")
    return 0


def _say(done: int, total: int) -> None:
    print(f"\r{done}/{total} episodes checked", end="\n" if done == total else "", file=sys.stderr, flush=True)
