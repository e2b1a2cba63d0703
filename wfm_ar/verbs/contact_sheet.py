"""Clips as one picture: a labelled row of frames for each, pixel for pixel."""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.files import write_atomic
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import resize_crop
from wfm_ar.errors import WfmError

GAP, LINE = 4, 20  # pixels between frames, pixels a line of label
INK = "#222222"


def pick_frames(num_frames: int, count: int) -> list[int]:
    """Up to `count` frame numbers spread evenly over a clip, first and last among them."""
    return sorted({round(i) for i in np.linspace(0, num_frames - 1, min(count, num_frames))})


def sample_frames(
    episodes: EpisodeSet, index: int, *, start: int = 0, end: int | None = None, count: int = 8, height: int = 80
) -> np.ndarray:
    """uint8 [count, height, W, 3]: frames spread evenly over an episode, or over start..end of it, read one by one and shrunk.

    Raises BadClip where the episode cannot be read.
    """
    end = episodes.num_frames(index) if end is None else end
    frames = [episodes.load_frames(index, start + number, 1)[0] for number in pick_frames(end - start, count)]
    width = max(1, round(frames[0].shape[1] * height / frames[0].shape[0]))
    return resize_crop(np.stack(frames), height, min(width, 3 * height))


def write_sample_sheet(path: Path, data: Path, most: int, **view: Any) -> None:
    """A contact sheet of up to `most` episodes spread evenly over the data set at `data`; those that cannot be read are left out,
    and where none can, nothing is written. view: camera, fps, flip, as for open_episodes. Replaces `path`."""
    try:
        episodes = open_episodes(data, **view)
    except WfmError:
        return
    rows = []
    for index in pick_frames(len(episodes), most):
        episode = episodes[index]
        try:
            frames = sample_frames(episodes, index)
        except WfmError:
            continue
        rows.append((f"{episode.id}  {episode.split}  {episode.text or ''}"[:120], frames))
    if rows:
        write_contact_sheet(path, rows, title=f"{data}: frames spread over each episode", columns=8, overwrite=True)


def write_contact_sheet(
    path: Path, rows: Sequence[tuple[str, np.ndarray]], *, title: str = "", columns: int = 9, overwrite: bool = False
) -> None:
    """Writes a PNG with one row a clip: `rows` holds (label, uint8 [T, H, W, 3]). Raises OutputExists, NoSpace.

    All rows show the same frame numbers, those of the longest clip, so that columns can be compared; a shorter clip's row ends
    earlier.
    """
    from PIL import Image, ImageDraw  # only when a sheet is drawn

    assert rows, "a contact sheet needs at least one clip"
    shown = pick_frames(max(len(frames) for _, frames in rows), columns)
    height, width = (max(frames.shape[axis] for _, frames in rows) for axis in (1, 2))
    margin, top = 3 * GAP, LINE * (2 if title else 1)
    total_w = 2 * margin + len(shown) * (width + GAP) - GAP
    total_h = top + len(rows) * (LINE + height + GAP) + margin
    sheet = Image.new("RGB", (total_w, total_h), "white")
    draw = ImageDraw.Draw(sheet)

    def write(text: str, x: int, y: int, size: float, *, bold: bool = False, anchor: str = "lm") -> None:
        # y counts pixels from the top; the text's own middle stands there
        draw.text((x, y), " ".join(text.split()), INK, _font(size, bold), anchor=anchor)

    if title:
        write(title, margin, LINE // 2 + 2, 13, bold=True)
    for column, number in enumerate(shown):
        write(str(number), margin + column * (width + GAP) + width // 2, top - LINE // 2 + 2, 9, anchor="mm")
    for row, (label, frames) in enumerate(rows):
        y = top + row * (LINE + height + GAP)
        write(label, margin, y + LINE // 2, 10.5)
        for column, number in enumerate(shown):
            if number < len(frames):
                sheet.paste(Image.fromarray(frames[number]), (margin + column * (width + GAP), y + LINE))
    png = io.BytesIO()
    sheet.save(png, format="png")
    write_atomic(path, png.getvalue(), overwrite=overwrite)


def _font(size: float, bold: bool) -> Any:
    """DejaVu Sans, which has the letters of most scripts, of matplotlib's files: found without importing matplotlib, which takes
    half a second."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.submodule_search_locations, "matplotlib is a dependency of wfm-ar"
    folder = Path(found.submodule_search_locations[0], "mpl-data", "fonts", "ttf")
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' * bold}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)
