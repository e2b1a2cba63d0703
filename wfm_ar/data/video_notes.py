"""What a set's summary says of its video files: how many are shown otherwise than stored."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wfm_ar.data.video import VIDEO_SUFFIXES, VideoInfo, video_info
from wfm_ar.errors import WfmError

_LOOKED_AT = 50  # files, spread evenly: a set of a hundred thousand opens in no time


def video_notes(files: Iterable[Path]) -> list[str]:
    """A line for each thing that is so of some of the videos among `files`; those that cannot be read are told of elsewhere."""
    paths = [path for path in dict.fromkeys(files) if Path(path).suffix.lower() in VIDEO_SUFFIXES]
    infos: list[VideoInfo] = []
    for i in np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT)).astype(int):
        try:
            infos.append(video_info(paths[i]))
        except WfmError:
            continue
    among = f"{len(infos)} videos" + (" looked at" if len(paths) > _LOOKED_AT else "")
    turned, stretched, notes = sum(info.turned for info in infos), sum(info.stretched for info in infos), []
    uneven = sum(not info.even for info in infos)
    if turned:
        notes.append(f"{turned} of {among} turned upright or mirrored, as the files say")
    if stretched:
        notes.append(f"{stretched} of {among} stretched to square pixels, as the files say")
    if uneven:
        shown = "a frame is shown until the next one's time, unless actions or state go with the frames"
        notes.append(f"{uneven} of {among} unevenly timed, as with pauses: {shown}")
    return notes
