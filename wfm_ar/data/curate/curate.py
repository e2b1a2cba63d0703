"""`curate`: a data set of raw recordings in, a clean one out, and a report of every piece that was dropped and why.

Four passes, each of which remembers what it did in `out/.curate`, so that an interrupted run goes on:
1. survey   every source is decoded once: its pieces, what speaks against each, fingerprints        (parallel)
2. choose   near-duplicates of earlier pieces are dropped, in the order of the sources
3. write    kept pieces are cut out, resized, retimed and encoded; a file that needs no change is copied (parallel)
4. caption  texts from the data, the captions file, the command; then the index and the report

Sources are only ever read. The same sources and settings give the same data, whatever was interrupted.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.claims import claim, holds_something
from wfm_ar.data.curate.captions import read_captions, run_captioner
from wfm_ar.data.curate.duplicates import DuplicateFinder, Fingerprint, hashes_of
from wfm_ar.data.curate.retime import retimed_schema, rules_of
from wfm_ar.data.curate.settings import CurateConfig
from wfm_ar.data.curate.sources import open_sources
from wfm_ar.data.curate.survey import Piece, survey
from wfm_ar.data.curate.writing import write_piece
from wfm_ar.data.episodes import INDEX, EpisodeSet, write_episodes
from wfm_ar.data.files import as_wfm_error, remove_dead_parts, write_atomic
from wfm_ar.errors import BadConfig, BadData, OutputExists, nearest
from wfm_ar.schema import ActionSchema, Schema

REPORT, LINES, JOURNAL = "curation.json", "curation.jsonl", ".curate"
FOLDERS = ("videos", "actions", "states")
Says = Callable[[str, int, int], None]  # (what is being done, done, total)


def curate(src: Path, out: Path, config: CurateConfig, *, workers: int = 2, on_progress: Says = lambda what, done, total: None) -> dict:
    """Curates the data set at `src` into a new one at `out` and returns the report (also `out`/curation.json; a line a piece in
    curation.jsonl). Goes on with an interrupted run of the same settings.

    Raises BadData, BadConfig, BadActions, OutputExists, NoSpace, MissingDependency.
    """
    src, out = Path(src), Path(out)
    if workers < 1:
        raise BadConfig(f"workers: got {workers}, expected at least 1; fix: workers=1")
    inside = os.path.realpath(src if src.is_dir() else src.parent)
    if os.path.commonpath([inside, os.path.realpath(out)]) == inside:
        raise BadConfig(f"out: {out} lies inside {src}, expected another place: originals are left alone; fix: choose a folder outside")
    episodes = open_sources(src)
    captions = {} if config.captions is None else read_captions(config.captions)
    schema = _schema(episodes, config)
    pinned = json.loads(json.dumps({"settings": config.to_json(), "captions": captions, "sources": _identity(episodes)}))
    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out}: is a file, expected a new folder; fix: choose another out=")
    with claim(out / REPORT):
        if (out / REPORT).exists():
            report = json.loads((out / REPORT).read_bytes())
            if report.get("pinned") != _digest(pinned):
                raise OutputExists(
                    f"{out}: holds data curated with other settings or sources, expected a free name; fix: choose another out="
                )
            _tidy_up(out)
            return report
        return _curated(episodes, out, config, captions, schema, pinned, workers, on_progress)


def _curated(
    episodes: EpisodeSet,
    out: Path,
    config: CurateConfig,
    captions: dict[str, str],
    schema: Schema | None,
    pinned: dict,
    workers: int,
    on_progress: Says,
) -> dict:
    journal = out / JOURNAL
    try:
        _begin(out, journal, pinned)
        surveyed = list(_survey_all(episodes, config, journal, workers, on_progress))
        names = _names([episode.id for episode in episodes])
        pieces = _choose(episodes, surveyed, names, config)
        _check_captions(captions, episodes, pieces, config)
        records = _write_all(episodes, pieces, out, journal, config, workers, on_progress)
        for done, (piece, record) in enumerate(zip([piece for piece in pieces if piece["kept"]], records, strict=True), 1):
            record["text"] = _caption(piece, record, captions, out, journal, config)
            on_progress("captioned", done, len(records))
        records = [{key: value for key, value in record.items() if value is not None} for record in records]
        report = _report(episodes, pieces, config) | {"pinned": _digest(pinned)}
        if not records:
            dropped: Any = report["dropped"]
            told = ", ".join(f"{row['clips']} {reason}" for reason, row in dropped.items())
            raise BadData(
                f"{episodes.path}: nothing is left to keep ({told}), expected some clips; fix: loosen the limits, see {out / LINES}"
            )
        write_episodes(out, records, schema if any("actions" in record for record in records) else None, overwrite=True)
        write_atomic(out / REPORT, json.dumps(report, indent=1).encode(), overwrite=True)
        _tidy_up(out)
    except OSError as error:
        raise as_wfm_error(error, out) from error
    return report


def _tidy_up(out: Path) -> None:
    """Removes the journal of a finished run, and what processes that were stopped left half written."""
    shutil.rmtree(out / JOURNAL, ignore_errors=True)
    for folder in ("", *FOLDERS):
        remove_dead_parts(out / folder)


def _begin(out: Path, journal: Path, pinned: dict) -> None:
    """Takes an empty folder, or one that an interrupted run of the same settings left."""
    settings = journal / "settings.json"
    if settings.exists():
        if json.loads(settings.read_bytes()) != pinned:
            raise OutputExists(f"{out}: an unfinished run with other settings or sources is here; fix: choose another out=, or delete it")
        return
    if holds_something(out, but=journal.name):
        raise OutputExists(f"{out}: is not empty, expected a new folder; fix: choose another out=")
    journal.mkdir(exist_ok=True)
    write_atomic(settings, json.dumps(pinned).encode())


def _identity(episodes: EpisodeSet) -> list[list]:
    """What tells whether sources are still the same: ids, sizes, times of change."""
    known = []
    for episode in episodes:
        files = [file for file in (episode.video, episode.actions, episode.state) if isinstance(file, Path)]
        stats = [file.stat() if file.exists() else None for file in files]
        known.append([episode.id, episode.text, [[s.st_size, s.st_mtime_ns] if s else None for s in stats]])
    return known


def _survey_all(
    episodes: EpisodeSet, config: CurateConfig, journal: Path, workers: int, on_progress: Says
) -> Iterator[tuple[list[Piece], list[Fingerprint | None]]]:
    def one(index: int) -> tuple[list[Piece], list[Fingerprint | None]]:
        noted, prints_file = journal / f"source-{index:06d}.json", journal / f"source-{index:06d}.npz"
        if not noted.exists():
            pieces, prints = survey(episodes, index, config)
            kept: dict[str, Any] = {str(i): print_.thumbs for i, print_ in enumerate(prints) if print_ is not None}
            with open(prints_file, "wb") as file:
                np.savez(file, **kept)
            write_atomic(noted, json.dumps([asdict(piece) for piece in pieces]).encode(), sync=False)
        pieces = [Piece(**fields) for fields in json.loads(noted.read_bytes())]
        with np.load(prints_file, allow_pickle=False) as arrays:
            prints = [Fingerprint(arrays[str(i)], hashes_of(arrays[str(i)])) if str(i) in arrays else None for i in range(len(pieces))]
        return pieces, prints

    with ThreadPoolExecutor(workers) as pool:
        for done, result in enumerate(pool.map(one, range(len(episodes))), 1):
            on_progress("looked at", done, len(episodes))
            yield result


def _choose(episodes: EpisodeSet, surveyed: Iterable, names: list[str], config: CurateConfig) -> list[dict[str, Any]]:
    """A dict a piece, in order: what becomes of it and why."""
    finder = None if config.duplicate_distance is None else DuplicateFinder(config.duplicate_distance)
    chosen = []
    for index, (pieces, prints) in enumerate(surveyed):
        for piece, print_ in zip(pieces, prints, strict=True):
            clip = names[index] if piece.whole else f"{names[index]}-{piece.start}-{piece.end}"
            again = None if finder is None or print_ is None else finder.find(print_)
            if again is not None:
                piece = replace(piece, reason="duplicate", detail=f"shows what {again[0]} shows: {100 * again[1]:.1f} % of the bits differ")
            elif finder is not None and print_ is not None:
                finder.add(clip, print_)
            seconds = round((piece.end - piece.start) / episodes[index].fps, 3)
            about = {"source": episodes[index].id, "clip": clip, "kept": not piece.reason, "seconds": seconds}
            chosen.append(about | asdict(piece) | {"index": index})
    return chosen


def _write_all(
    episodes: EpisodeSet, pieces: list[dict], out: Path, journal: Path, config: CurateConfig, workers: int, on_progress: Says
) -> list[dict[str, Any]]:
    """The records of the kept pieces, written in parallel; a piece whose record is noted is there already."""
    kept = [piece for piece in pieces if piece["kept"]]
    lines = "".join(json.dumps({k: v for k, v in piece.items() if k not in ("index", "whole")}) + "\n" for piece in pieces)
    write_atomic(out / LINES, lines.encode(), overwrite=True)  # before the long work: it may be looked at while that goes on

    def one(piece: dict) -> dict[str, Any]:
        noted = journal / f"clip-{piece['clip']}.json"
        if not noted.exists():
            record = write_piece(episodes, piece["index"], piece["start"], piece["end"], piece["whole"], piece["clip"], out, config)
            write_atomic(noted, json.dumps(record).encode(), sync=False)
        return json.loads(noted.read_bytes())

    records = []
    with ThreadPoolExecutor(workers) as pool:
        for done, record in enumerate(pool.map(one, kept), 1):
            records.append(record)
            on_progress("written", done, len(kept))
    return records


def _caption(piece: dict, record: dict, captions: dict[str, str], out: Path, journal: Path, config: CurateConfig) -> str | None:
    """The clip's own line of the file, its source's line, the text it has, or what the command prints, in this order."""
    given = captions.get(piece["clip"], captions.get(piece["source"]))
    text = record.get("text")
    if given is not None and (text is None or config.recaption):
        return given
    if config.caption_command is None or (text is not None and not config.recaption):
        return text
    noted = journal / f"caption-{piece['clip']}.json"
    if not noted.exists():
        said = run_captioner(config.caption_command, out / record["video"], config.caption_timeout_s)
        write_atomic(noted, json.dumps(said).encode(), sync=False)
    return json.loads(noted.read_bytes())


def _check_captions(captions: dict[str, str], episodes: EpisodeSet, pieces: list[dict], config: CurateConfig) -> None:
    known = {episode.id for episode in episodes} | {piece["clip"] for piece in pieces}
    for name in captions:
        if name not in known:
            raise BadData(
                f"{config.captions}: id {name!r} is neither a source nor a clip{nearest(name, known)}, expected one; fix: correct it"
            )


def _schema(episodes: EpisodeSet, config: CurateConfig) -> Schema | None:
    """That of the curated set's actions. Raises BadConfig where actions at another rate cannot be made."""
    schema = episodes.schema
    if schema is None or config.actions == "drop":
        return None
    rates = [episode.fps for episode in episodes if episode.actions is not None]
    slower = [rate for rate in rates if config.fps is not None and rate > 1.01 * config.fps]
    if not slower or config.fps is None:
        return schema
    if not isinstance(schema, ActionSchema):
        raise BadConfig(f"fps: got {config.fps:g} for data of several robots, expected one; fix: curate each robot's data by itself")
    if max(slower) != min(slower) or len(slower) < len(rates):
        raise BadConfig(
            f"fps: got {config.fps:g} for actions of {min(rates):g} to {max(rates):g} a second, expected one rate; fix: part the data"
        )
    return retimed_schema(schema, slower[0], float(config.fps), rules_of(schema, config.actions))


def _names(ids: list[str]) -> list[str]:
    """File names for sources, distinct and steady: what cannot stand in a name becomes "_", and where two meet, a hash is added."""
    plain = ["".join(c if c.isalnum() or c in "-_" else "_" for c in one.removesuffix(".mp4"))[:100] or "_" for one in ids]
    counts = Counter(name.lower() for name in plain)
    hashes = [hashlib.sha256(one.encode()).hexdigest()[:8] for one in ids]
    return [name if counts[name.lower()] == 1 else f"{name}_{h}" for name, h in zip(plain, hashes, strict=True)]


def _report(episodes: EpisodeSet, pieces: list[dict], config: CurateConfig) -> dict[str, Any]:
    kept = [piece for piece in pieces if piece["kept"]]
    dropped: dict[str, dict[str, float]] = {}
    for piece in pieces:
        if not piece["kept"]:
            row = dropped.setdefault(piece["reason"], {"clips": 0, "seconds": 0.0})
            row["clips"] += 1
            row["seconds"] = round(row["seconds"] + piece["seconds"], 3)
    return {
        "sources": len(episodes),
        "pieces": len(pieces),
        "seconds": round(sum(piece["seconds"] for piece in pieces), 3),
        "kept": {"clips": len(kept), "seconds": round(sum(piece["seconds"] for piece in kept), 3)},
        "dropped": dict(sorted(dropped.items())),
        "settings": config.to_json(),
        "index": INDEX,
    }


def _digest(pinned: dict) -> str:
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()
