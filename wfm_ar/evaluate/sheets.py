"""Sheets: clips of one episode below each other, in the report as strips of frames with a video to play."""

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wfm_ar.data.video import write_image, write_video
from wfm_ar.evaluate.html_parts import text_of

GAP = 2  # pixels between frames of a strip


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Clips of one episode below each other, frame by frame."""

    title: str
    note: str = ""
    rows: tuple[tuple[str, np.ndarray], ...]  # (label, frames uint8 [T, H, W, 3]), all of one shape
    mark: str = ""  # "failure", "worst 1 of 96", "typical: ...", "best of 96", shown before the title
    fps: float | None = None  # frames a second, where robots of several rates act; None: the world's


def sheet_html(sheet: Sheet, fps: float) -> str:
    num_frames = len(sheet.rows[0][1])
    shown = np.linspace(0, num_frames - 1, min(9, num_frames)).round().astype(int)
    lines = "".join(
        f"<div class='strip'><span>{text_of(label)}</span><img alt='{text_of(label)}' src='{_png(_strip(frames[shown]))}'></div>"
        for label, frames in sheet.rows
    )
    ticks = "".join(f"<i>{t}</i>" for t in shown)
    video = _mp4(np.concatenate([frames for _, frames in sheet.rows], axis=2), sheet.fps or fps)
    kind = {"best": "aim", "typical": "bar"}.get(sheet.mark.partition(" ")[0].strip(":"), "no")
    mark = f"<span class='chip {kind}'>{text_of(sheet.mark)}</span> " if sheet.mark else ""
    return (
        f"<div class='sheet'><h3>{mark}{text_of(sheet.title)}</h3><p>{text_of(sheet.note)}</p>{lines}"
        f"<div class='strip ticks'><span>frame</span><div>{ticks}</div></div>"
        f"<details><summary>play: {text_of(', '.join(label for label, _ in sheet.rows))}</summary>"
        f"<video controls loop muted src='{video}'></video></details></div>"
    )


def _strip(frames_THWC: np.ndarray) -> np.ndarray:
    """Frames beside each other with a white gap: uint8 [H, n * (W + GAP) - GAP, 3]."""
    padded = np.pad(frames_THWC, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-GAP]


def _png(image_HWC: np.ndarray) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "strip.png"
        write_image(path, image_HWC)
        return _data("image/png", path)


def _mp4(frames_THWC: np.ndarray, fps: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, frames_THWC, fps, sync=False)
        return _data("video/mp4", path)


def _data(kind: str, path: Path) -> str:
    """The file at `path` as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
