"""How far a clip is from what was wanted: what a plan makes small where no better measure is at hand."""

from dataclasses import dataclass

import numpy as np

from wfm_ar.errors import BadClip


@dataclass(frozen=True, kw_only=True)
class GoalPicture:
    """The cost of a clip is how far its last frames are from a picture."""

    picture: np.ndarray  # uint8 [H, W, 3], of the world's size
    last: int = 4  # frames that count: what is there must stay there

    def __call__(self, frames_THWC: np.ndarray) -> float:
        """Mean picture_distance of the last frames, uint8 [T, H, W, 3]."""
        return float(picture_distance(frames_THWC[-self.last :], self.picture).mean())


def picture_distance(frames_THWC: np.ndarray, picture_HWC: np.ndarray) -> np.ndarray:
    """float64 [T], grey levels 0..255: how far each frame is from the picture (uint8), far off too.

    Two pictures of one thing in two places differ pixel by pixel as much whether it stands near or far, once it no longer covers
    itself. So coarse differences count more here: the root mean square of the difference with each wave divided by its number of
    cycles a picture, which grows with the way between the two places (a negative Sobolev norm: to first order the distance of optimal
    transport, Peyre 2018, arXiv 1104.4631). Raises BadClip for another size.
    """
    if picture_HWC.shape != frames_THWC.shape[1:] or picture_HWC.dtype != np.uint8 or frames_THWC.dtype != np.uint8:
        got = f"{picture_HWC.dtype} {list(picture_HWC.shape)} beside frames of {frames_THWC.dtype} {list(frames_THWC.shape[1:])}"
        raise BadClip(f"goal: got {got}, expected one size, uint8 [H, W, 3]; fix: wfm_ar.data.video.resize_crop makes it")
    difference = frames_THWC.astype(np.float32) - picture_HWC
    _, H, W, C = difference.shape
    # at twice the size: what stands at one edge is far from the other
    wave_TYXC = np.fft.fft2(difference, s=(2 * H, 2 * W), axes=(1, 2))
    cycles_YX = np.hypot(np.fft.fftfreq(2 * H)[:, None], np.fft.fftfreq(2 * W)) * max(H, W)
    energy_TYXC = np.square(np.abs(wave_TYXC)) / np.square(np.maximum(cycles_YX, 1))[..., None]
    return np.sqrt(energy_TYXC.sum((1, 2, 3)) / (4 * H * W)) / np.sqrt(H * W * C)  # Parseval: as a sum over pixels
