"""What the tabletop camera sees: colours, projection, and finding the peg and the objects in a picture.

Pure numpy, so evaluation can measure generated frames without a simulator. Metres: x is right, y is away from the camera, z
is up, the origin lies in the middle of the table top. Pixels: (x, y) with y down; whole numbers are pixel centres.
"""

import numpy as np

SIZE = 128  # pixels, both sides of a recorded frame
FOVY = 27.0  # degrees
CAMERA_POS = np.array([0.0, -0.50, 1.16])  # metres
CAMERA_TARGET = np.array([0.0, 0.002, 0.0])  # metres, the point in the middle of the picture
TIP_HEIGHT = 0.105  # metres, centre of the white tip above the table

COLOURS = {  # RGB of the surfaces, before light
    "red": (0.83, 0.13, 0.11),
    "green": (0.14, 0.62, 0.20),
    "blue": (0.13, 0.33, 0.86),
    "yellow": (0.92, 0.74, 0.08),
    "purple": (0.55, 0.18, 0.72),
}
_HUES = {"red": (345, 20), "green": (95, 165), "blue": (200, 245), "yellow": (38, 68), "purple": (262, 315)}  # degrees


def camera_axes() -> np.ndarray:
    """[3, 3]: rows are the camera's right, up and backward axes in world coordinates."""
    back = CAMERA_POS - CAMERA_TARGET
    back = back / np.linalg.norm(back)
    right = np.array([1.0, 0.0, 0.0])
    return np.stack([right, np.cross(back, right), back])


def to_pixels(points: np.ndarray, size: int = SIZE) -> np.ndarray:
    """World points [..., 3] in metres -> pixels [..., 2]."""
    right, up, back = np.moveaxis((np.asarray(points) - CAMERA_POS) @ camera_axes().T, -1, 0)
    focal = size / 2 / np.tan(np.radians(FOVY) / 2)
    return np.stack([size / 2 + focal * right / -back, size / 2 - focal * up / -back], axis=-1) - 0.5


def to_metres(pixels: np.ndarray, height: float = TIP_HEIGHT, size: int = SIZE) -> np.ndarray:
    """Pixels [..., 2] -> (x, y) [..., 2] in metres of the point seen there on the level plane at `height` (NaN stays NaN)."""
    focal = size / 2 / np.tan(np.radians(FOVY) / 2)
    x, y = np.moveaxis(np.asarray(pixels, dtype=float) + 0.5, -1, 0)
    rays = np.stack([(x - size / 2) / focal, (size / 2 - y) / focal, -np.ones_like(x)], axis=-1) @ camera_axes()
    return CAMERA_POS[:2] + rays[..., :2] * ((height - CAMERA_POS[2]) / rays[..., 2:])


def find_peg(frames_THWC: np.ndarray) -> np.ndarray:
    """Pixel centroid [T, 2] of the white tip in uint8 frames, NaN where there is none.

    White is where even the darkest channel is bright; the brightest patch about the size of the tip wins, so that a stray
    bright pixel of a generated frame does not pull the centroid away.
    """
    frames_THWC = np.asarray(frames_THWC)
    white_THW = np.clip(_over_channels(np.minimum, frames_THWC).astype(np.float32) - 165, 0, 60) / 60
    reach = max(2, round(frames_THWC.shape[1] * 5 / SIZE))
    found = np.full((len(frames_THWC), 2), np.nan)
    for t, white_HW in enumerate(white_THW):
        near_HW = _box_sum(white_HW, reach)
        y, x = np.unravel_index(np.argmax(near_HW), near_HW.shape)
        if near_HW[y, x] >= 3:
            found[t] = _centroid(white_HW, slice(max(0, y - reach), y + reach + 1), slice(max(0, x - reach), x + reach + 1))
    return found


def find_object(frames_THWC: np.ndarray, colour: str) -> np.ndarray:
    """Pixel centroid [T, 2] of what is seen of the object of that colour in uint8 frames, NaN below 8 pixels."""
    mask_THW = colour_mask(frames_THWC, colour)
    found = np.full((len(mask_THW), 2), np.nan)
    for t, mask_HW in enumerate(mask_THW):
        if mask_HW.sum() >= 8:
            found[t] = _centroid(mask_HW.astype(np.float32), slice(None), slice(None))
    return found


def colour_mask(frames_THWC: np.ndarray, colour: str) -> np.ndarray:
    """bool [T, H, W]: pixels of saturated colour with the hue of `colour`, whatever the light on the face."""
    low, high = _HUES[colour]
    frames_THWC = np.asarray(frames_THWC)
    top_THW, bottom_THW = _over_channels(np.maximum, frames_THWC), _over_channels(np.minimum, frames_THWC)
    mask_THW = _has_hue(top_THW, bottom_THW)
    r, g, b = frames_THWC[mask_THW].astype(np.float32).T
    top, spread = top_THW[mask_THW].astype(np.float32), (top_THW - bottom_THW)[mask_THW].astype(np.float32)
    hue = np.where(top == r, (g - b) / spread % 6, np.where(top == g, (b - r) / spread + 2, (r - g) / spread + 4)) * 60
    mask_THW[mask_THW] = (hue >= low) & (hue <= high) if low < high else (hue >= low) | (hue <= high)
    return mask_THW


def saturated_mask(frames_THWC: np.ndarray) -> np.ndarray:
    """bool [T, H, W]: pixels of any saturated colour, those of all the objects' colours among them."""
    frames_THWC = np.asarray(frames_THWC)
    return _has_hue(_over_channels(np.maximum, frames_THWC), _over_channels(np.minimum, frames_THWC))


def _has_hue(top_THW: np.ndarray, bottom_THW: np.ndarray) -> np.ndarray:
    return (top_THW > 60) & (bottom_THW < top_THW // 2)  # most of the picture is grey: only the rest has a hue


def _over_channels(larger_or_smaller: np.ufunc, frames_THWC: np.ndarray) -> np.ndarray:
    r, g, b = np.moveaxis(frames_THWC, -1, 0)
    return larger_or_smaller(larger_or_smaller(r, g), b)  # ten times as fast as a reduction over an axis of three


def _box_sum(image_HW: np.ndarray, reach: int) -> np.ndarray:
    padded = np.pad(image_HW, ((reach + 1, reach), (reach + 1, reach))).cumsum(0).cumsum(1)
    side = 2 * reach + 1
    return padded[side:, side:] - padded[:-side, side:] - padded[side:, :-side] + padded[:-side, :-side]


def _centroid(weight_HW: np.ndarray, rows: slice, columns: slice) -> tuple[float, float]:
    y, x = np.arange(weight_HW.shape[0])[rows, None], np.arange(weight_HW.shape[1])[None, columns]
    weight = weight_HW[rows, columns]
    return float((x * weight).sum() / weight.sum()), float((y * weight).sum() / weight.sum())
