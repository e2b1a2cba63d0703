"""`wfm data curate`: raw recordings to a clean data set, and what was dropped and why."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from wfm_ar.data.curate.settings import CurateConfig
from wfm_ar.verbs.inputs import refuse_inputs

SHOWN = 12  # rows of the contact sheet for kept pieces, and as many for dropped ones


@dataclass(frozen=True, kw_only=True)
class Settings(CurateConfig):
    """The keys of conf/data_curate.yaml, which explains them."""

    src: Path
    out: Path
    workers: int


def run(settings: Settings) -> int:
    """Curates, prints the report, and draws what was kept and what was dropped."""
    from wfm_ar.data.curate.curate import LINES, curate

    refuse_inputs([settings.out, settings.out / "curation.png"], {"src": settings.src})
    config = CurateConfig(**{field.name: getattr(settings, field.name) for field in fields(CurateConfig)})
    report = curate(settings.src, settings.out, config, workers=settings.workers, on_progress=_say if sys.stderr.isatty() else _quiet)
    print(f"{settings.src}: {report['sources']} sources, {report['pieces']} pieces, {report['seconds'] / 60:.1f} min")
    for reason, row in report["dropped"].items():
        print(f"  dropped {row['clips']:>6} {reason:<10} {row['seconds'] / 60:8.1f} min")
    print(f"  kept    {report['kept']['clips']:>6} {'':<10} {report['kept']['seconds'] / 60:8.1f} min")
    sheet = settings.out / "curation.png"
    if not sheet.exists():
        _draw(settings, sheet)
    print(f"{settings.out}: the data set; {settings.out / LINES} says what became of each piece, {sheet} shows it")
    return 0


def _draw(settings: Settings, sheet: Path) -> None:
    import json

    from wfm_ar.data.curate.curate import LINES
    from wfm_ar.data.curate.sources import open_sources
    from wfm_ar.errors import WfmError
    from wfm_ar.verbs.contact_sheet import pick_frames, sample_frames, write_contact_sheet

    episodes = open_sources(settings.src)
    index = {episode.id: i for i, episode in enumerate(episodes)}
    lines = [json.loads(line) for line in (settings.out / LINES).read_text().splitlines()]
    rows = []
    for kept in (False, True):
        group = [line for line in lines if line["kept"] == kept and line["end"] > line["start"]]
        for line in (group[i] for i in pick_frames(len(group), SHOWN)) if group else ():
            label = f"kept: {line['clip']}" if kept else f"{line['reason']}: {line['clip']}, {line['detail']}"
            try:
                rows.append((label[:140], sample_frames(episodes, index[line["source"]], start=line["start"], end=line["end"])))
            except WfmError:  # a dropped source may well be one that cannot be read
                continue
    if rows:
        write_contact_sheet(sheet, rows, title=f"{settings.src}: dropped and kept, frames spread over each piece", columns=8)


def _say(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


_quiet: Callable[[str, int, int], None] = lambda what, done, total: None  # noqa: E731
