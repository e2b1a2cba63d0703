"""`wfm data check`: one line a defect on stdout, or a summary of a sound set; and a picture of some of its episodes."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfm_ar.errors import BadConfig, WfmError
from wfm_ar.framing import area_of, framing_line
from wfm_ar.plain_text import shown
from wfm_ar.verbs.inputs import refuse_inputs

AUTO = "auto"
SAMPLES = 12  # rows of the contact sheet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/data_check.yaml, which explains them."""

    path: Path
    camera: str | None
    fps: float | None
    flip: str | None
    text: str
    height: int
    width: int
    crop: str
    decode: bool
    max_text: int | None
    text_vocab: int
    window: int | None
    sheet: Path | None

    def __post_init__(self) -> None:
        if self.max_text is not None and self.max_text < 1:
            raise BadConfig(f"max_text: got {self.max_text}, expected at least 1; fix: null measures no texts")
        if self.window is not None and self.window < 1:
            raise BadConfig(f"window: got {self.window}, expected at least 1; fix: null measures no lengths")
        area_of(self.crop)  # which raises
        if min(self.height, self.width) < 1:
            raise BadConfig(f"height, width: got {self.width}x{self.height}, expected at least 1x1 pixels; fix: leave them out")
        if self.sheet is not None and str(self.sheet) != AUTO and self.sheet.suffix.lower() != ".png":
            raise BadConfig(f"sheet: got {self.sheet}, expected a name that ends in .png; fix: sheet={self.sheet.with_suffix('.png')}")


def run(settings: Settings) -> int:
    """Prints what was found; 0 for a sound set, 2 for one with defects."""
    from wfm_ar.data.check import check_data, summarize
    from wfm_ar.data.formats import VIEW, title_of
    from wfm_ar.data.stats import data_stats

    if settings.sheet is not None:
        refuse_inputs([settings.sheet], {"path": settings.path})
    how = {key: getattr(settings, key) for key in VIEW}
    defects = check_data(
        settings.path, camera=settings.camera, fps=settings.fps, decode=settings.decode, on_progress=_say if sys.stderr.isatty() else None
    )
    if settings.max_text is not None:
        defects += _long_texts(settings, how)
    for defect in defects:
        print(defect)
    if defects:
        plural = "1 defect" if len(defects) == 1 else f"{len(defects)} defects"
        title = f"{title}, " if (title := title_of(settings.path)) else ""
        print(f"wfm data check: {settings.path}: {title}{plural} found, expected none; fix: as each line says", file=sys.stderr)
        _draw(settings, how)
        return 2
    summary, stats = summarize(settings.path, **how), data_stats(settings.path, **how)
    pictures = framing_line(list(stats.sizes), settings.height, settings.width, settings.crop, str(settings.path))
    print(f"{settings.path}: {summary}; no defects")
    print(pictures)
    for note in (*summary.notes, *stats.notes, *_short(settings, stats.frames)):
        print(f"note: {shown(note)}")
    if (sheet := _draw(settings, how)) is not None:
        print(f"samples: {sheet}")
    return 0


def _short(settings: Settings, frames: tuple[int, ...]) -> list[str]:
    """A note where training as it stands finds no episode that is long enough; short ones serve as policy_data, so it is no defect."""
    if settings.window is None or not frames or not all(0 < count < settings.window for count in frames):
        return []
    return [
        f"episodes of {max(frames)} frames at most: training refuses them, as its window is of {settings.window} frames; longer clips, "
        f"or a smaller window (stages.video_tokenizer.training.window and the other stages')"
    ]


def _long_texts(settings: Settings, how: dict[str, Any]) -> list[Any]:
    """The defects of texts that are too long to train on; of a set that does not open, none: why is told already."""
    from wfm_ar.data.formats import open_episodes

    try:
        found = open_episodes(settings.path, **how)
    except WfmError:
        return []
    from wfm_ar.tokenizers.text import TextTokenizer
    from wfm_ar.train.preflight import long_texts, texts_of  # brings torch
    from wfm_ar.verbs.training_data import parted

    try:
        texts = texts_of(parted(found)[0])
    except WfmError:
        return []
    if not texts:
        return []
    tokenizer = TextTokenizer.train(set(texts), vocab_size=settings.text_vocab)
    assert settings.max_text is not None, "asked for"
    return long_texts([found], tokenizer, settings.max_text)


def _draw(settings: Settings, how: dict[str, Any]) -> Path | None:
    """The contact sheet's file, where one was wanted and some episode could be read.

    One that nobody named may fail, with a line: what was found is told whether or not the working folder can be written.
    """
    from wfm_ar.data.claims import claim
    from wfm_ar.data.files import as_wfm_error
    from wfm_ar.data.set_folder import name_of_set
    from wfm_ar.verbs.contact_sheet import write_sample_sheet

    if settings.sheet is None or not any(Path(part).exists() for part in str(settings.path).split(os.pathsep)):
        return None
    auto = str(settings.sheet) == AUTO
    sheet = Path("outputs") / f"{name_of_set(settings.path)}-samples.png" if auto else settings.sheet
    try:
        try:
            with claim(sheet):
                write_sample_sheet(sheet, settings.path, SAMPLES, **how)
        except OSError as error:
            raise as_wfm_error(error, sheet) from error
    except WfmError as error:
        if not auto:
            raise
        print(f"note: no samples were drawn: {error}")
        return None
    return sheet if sheet.exists() else None


def _say(done: int, total: int) -> None:
    print(f"\r{done}/{total} episodes checked", end="\n" if done == total else "", file=sys.stderr, flush=True)
