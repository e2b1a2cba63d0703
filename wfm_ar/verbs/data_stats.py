"""`wfm data stats`: what a data set holds, as plots in one HTML page and its numbers on stdout."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfm_ar.verbs.inputs import refuse_inputs

SAMPLES = 8  # episodes on the page


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/data_stats.yaml, which explains them."""

    path: Path
    camera: str | None
    fps: float | None
    flip: str | None
    text: str
    out: Path | None
    samples: bool
    overwrite: bool


def run(settings: Settings) -> int:
    """Writes the page and prints the main numbers."""
    from wfm_ar.data.claims import claim
    from wfm_ar.data.files import refuse_existing
    from wfm_ar.data.set_folder import name_of_set

    out = settings.out or Path("outputs") / f"{name_of_set(settings.path)}-stats.html"
    refuse_inputs([out], {"path": settings.path})
    if settings.out is not None:  # the page with the default name is ours to replace
        refuse_existing(out, settings.overwrite)
    with claim(out):
        return _run(settings, out)


def _run(settings: Settings, out: Path) -> int:
    from wfm_ar.data.files import write_atomic
    from wfm_ar.data.formats import VIEW
    from wfm_ar.data.stats import data_stats

    how = {key: getattr(settings, key) for key in VIEW}
    stats = data_stats(settings.path, **how, on_progress=_say if sys.stderr.isatty() else None)
    from wfm_ar.verbs.stats_page import render_page  # brings matplotlib and torch

    sheet = _sheet(settings.path, how) if settings.samples else None
    write_atomic(out, render_page(stats, sheet).encode(), overwrite=True)
    rates = ", ".join(f"{rate:g}" for rate in stats.rates)
    sizes = ", ".join(f"{width}x{height}" for height, width in list(stats.sizes)[:4]) + (" ..." if len(stats.sizes) > 4 else "")
    print(f"{settings.path}: {len(stats.frames)} episodes, {sum(stats.frames)} frames, {sum(stats.seconds) / 60:.1f} min")
    print(f"  {rates} frames a second; {sizes} pixels; {len(stats.texts)} texts of {len(stats.words)} words")
    for channel in stats.channels:
        told = f"{channel.minimum:.4g} to {channel.maximum:.4g}, mean {channel.mean:.4g}, std {channel.std:.4g}"
        print(f"  {channel.robot + ' ' if channel.robot else ''}{channel.name}: {told}, {100 * channel.clipped:.1f} % clipped")
    for note in stats.notes:
        print(f"  note: {note}")
    print(f"the page is {out}")
    return 0


def _sheet(path: Path, how: dict[str, Any]) -> bytes:
    from wfm_ar.verbs.contact_sheet import write_sample_sheet

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.png"
        write_sample_sheet(file, path, SAMPLES, **how)
        return file.read_bytes() if file.exists() else b""


def _say(done: int, total: int) -> None:
    print(f"\r{done}/{total} episodes read", end="\n" if done == total else "", file=sys.stderr, flush=True)
