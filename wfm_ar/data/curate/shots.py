"""Where one shot ends and the next begins; the only file that imports scenedetect and OpenCV (extra [curate])."""

import numpy as np

from wfm_ar.errors import MissingDependency
from wfm_ar.extras import how_to_install

WIDTH = 256  # pixels: frames are shrunk to this width before they are compared, as scenedetect itself does


class ShotFinder:
    """Takes the frames of a recording in order and remembers where cuts are.

    scenedetect's AdaptiveDetector: a cut is a change of hue, saturation and brightness that stands out from its neighbours, so
    that a moving camera is not taken for one. Fades through black are found by `looks.black_runs`.
    """

    def __init__(self, fps: float, threshold: float):
        """threshold: how many times larger than around it a change must be; 3 is scenedetect's own."""
        try:
            import cv2
            from scenedetect import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ImportError as error:  # opencv-python also fails where libGL is missing
            raise MissingDependency(
                f"shot splitting: needs scenedetect and OpenCV ({error}), expected them to be installed; "
                f"fix: {how_to_install('curate')} (without a display also: pip install --force-reinstall opencv-python-headless), "
                "or set shots=false"
            ) from error
        self._resize, self._area = cv2.resize, cv2.INTER_AREA
        self._timecode, self._fps = FrameTimecode, fps
        self._detector = AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=2)
        self.frames = 0
        self._cuts: list[int] = []

    def look(self, frames_THWC: np.ndarray) -> None:
        """The next frames, uint8 [T, H, W, 3] RGB."""
        height, width = frames_THWC.shape[1:3]
        size = (WIDTH, max(1, round(height * WIDTH / width))) if width > WIDTH else (width, height)
        for image_HWC in frames_THWC:
            small = self._resize(image_HWC[..., ::-1], size, interpolation=self._area)
            found = self._detector.process_frame(self._timecode(self.frames, self._fps), small)
            self._cuts += [cut.frame_num for cut in found]
            self.frames += 1

    def cuts(self) -> list[int]:
        """The first frame of every shot but the first."""
        return sorted({cut for cut in self._cuts if 0 < cut < self.frames})


def segments(num_frames: int, cuts: list[int], black: list[tuple[int, int]], longest: int | None) -> list[tuple[int, int]]:
    """[start, end) of the pieces of a recording: parted at cuts and around black runs, and evenly where longer than `longest`."""
    edges = sorted({0, num_frames, *cuts, *(edge for run in black for edge in run)})
    pieces = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        parts = 1 if longest is None else -(-(end - start) // longest)
        marks = [start + (end - start) * part // parts for part in range(parts + 1)]
        pieces += list(zip(marks[:-1], marks[1:], strict=True))
    return pieces
