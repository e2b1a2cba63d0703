"""How near one video is to another, in numbers. Pure functions of frames; nothing here knows of models or files.

Frames are uint8 [T, H, W, 3], sRGB 0..255. Every function works frame by frame and averages the frames' numbers, so a
long clip weighs as much a frame as a short one. Conventions, which differ between papers and are therefore fixed here:

* PSNR: one mean squared error a frame, over all pixels and the three channels, peak 255, in dB; the frames' dB are
  averaged (never the dB of an averaged error). A frame is never credited with more than PSNR_CAP dB: two equal frames
  would be infinite and swallow the mean.
* SSIM: Wang et al. 2004, Gaussian window 11x11 with sigma 1.5, population covariance, K1 = 0.01, K2 = 0.03, range 255,
  over the places where the window lies wholly inside the picture, on each of R, G, B, then averaged. Equal to scikit-image
  `structural_similarity(gaussian_weights=True, use_sample_covariance=False, channel_axis=-1)`.
* Edge error: mean |Sobel(a) - Sobel(b)|, where Sobel is the gradient's magnitude sqrt((gx^2 + gy^2) / 2) of the luminance
  (kernels summing to 1 a side, as scikit-image `sobel`), in grey levels 0..255.
* Perceptual distance: 1 - SSIM at three sizes, averaged.
* Flicker: mean |(a[t+1] - a[t]) - (b[t+1] - b[t])| in grey levels: motion that is in one video and not in the other.
"""

import numpy as np
import torch
import torch.nn.functional as F

PSNR_CAP = 60.0  # dB; the rounding to uint8 alone is 58.9 dB away from the unrounded picture
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, the one that mp4 files of this size use
_CHUNK = 32  # frames worked on at once: bounds the memory to some 40 MB at 128x128


def psnr_frames(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """PSNR of each frame. Both uint8 [T, H, W, 3]; returns float64 [T] dB, at most PSNR_CAP."""
    _check_pair(frames, truth)
    mse_T = mse_frames(frames, truth)
    with np.errstate(divide="ignore"):
        return np.minimum(10 * np.log10(255.0**2 / mse_T), PSNR_CAP)


def mse_frames(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean squared error of each frame in squared grey levels. Both uint8 [T, H, W, 3]; returns float64 [T]."""
    _check_pair(frames, truth)
    difference_THWC = frames.astype(np.float32) - truth.astype(np.float32)
    return np.square(difference_THWC).mean(axis=(1, 2, 3), dtype=np.float64)


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of psnr_frames, in dB."""
    return float(psnr_frames(frames, truth).mean())


def ssim_frames(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """SSIM of each frame (see the module's conventions). Both uint8 [T, H, W, 3], H and W >= 11; returns float64 [T] in [-1, 1]."""
    _check_pair(frames, truth)
    assert min(frames.shape[1:3]) >= 11, f"SSIM's window is 11x11, got frames of {frames.shape[1:3]}"
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    parts = []
    for a_BCHW, b_BCHW in _pairs(frames, truth):
        mean_a, mean_b = _gaussian(a_BCHW), _gaussian(b_BCHW)
        var_a = _gaussian(a_BCHW * a_BCHW) - mean_a**2
        var_b = _gaussian(b_BCHW * b_BCHW) - mean_b**2
        covariance = _gaussian(a_BCHW * b_BCHW) - mean_a * mean_b
        top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        parts.append((top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean(dim=(1, 2, 3)))
    return torch.cat(parts).double().numpy()


def perceptual_frames(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How different each frame looks, float64 [T], 0 for equal ones and about 1 for unrelated ones: 1 - SSIM, averaged over the picture at
    full, half and quarter size, as far as SSIM's window fits. No network that was trained on pictures of another kind has a say."""
    _check_pair(frames, truth)
    parts, sides = [], min(frames.shape[1:3])
    for scale in (1, 2, 4):
        if scale > 1 and sides // scale < 11:
            break
        parts.append(1 - ssim_frames(_smaller(frames, scale), _smaller(truth, scale)))
    return np.mean(parts, axis=0)


def _smaller(frames: np.ndarray, scale: int) -> np.ndarray:
    """uint8 frames at 1 / scale of their size, means over squares of pixels."""
    if scale == 1:
        return frames
    T, H, W, C = frames.shape
    cut = frames[:, : H // scale * scale, : W // scale * scale].reshape(T, H // scale, scale, W // scale, scale, C)
    return cut.mean(axis=(2, 4)).round().astype(np.uint8)


def ssim(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean over frames of ssim_frames."""
    return float(ssim_frames(frames, truth).mean())


def edge_error(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean |Sobel(frames) - Sobel(truth)| of the luminance, grey levels. Both uint8 [T, H, W, 3]. A blurred copy scores high."""
    _check_pair(frames, truth)
    total = 0.0
    for a_BCHW, b_BCHW in _pairs(frames, truth):
        total += float((_sobel(a_BCHW) - _sobel(b_BCHW)).abs().mean(dim=(1, 2, 3)).sum())
    return total / len(frames)


def flicker(frames: np.ndarray, truth: np.ndarray) -> float:
    """Mean |step of frames - step of truth| over neighbouring frames, grey levels. Both uint8 [T, H, W, 3], T >= 2."""
    _check_pair(frames, truth)
    assert len(frames) >= 2, "flicker needs two frames"
    error_THWC = frames.astype(np.int16) - truth.astype(np.int16)
    # (a[t+1] - a[t]) - (b[t+1] - b[t]) is the step of the error
    return float(np.abs(np.diff(error_THWC, axis=0)).mean(dtype=np.float64))


def code_usage(counts: np.ndarray) -> tuple[float, float]:
    """(share of codes used at least once, perplexity) from the counts [V] of every code. Perplexity is exp(entropy), 1..V."""
    counts = np.asarray(counts, dtype=np.float64)
    assert counts.ndim == 1 and counts.sum() > 0, "expected the counts of one codebook, some above zero"
    share = counts[counts > 0] / counts.sum()
    return float((counts > 0).mean()), float(np.exp(-(share * np.log(share)).sum()))


def pearson_r(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two equally long vectors, in [-1, 1]; 0 where either one does not vary (nothing follows a constant)."""
    x, y = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    assert x.size == y.size and x.size >= 2, f"expected two vectors of one length >= 2, got {x.size} and {y.size}"
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float(np.clip((x * y).sum() / norm, -1.0, 1.0)) if norm > 1e-12 else 0.0


def _check_pair(frames: np.ndarray, truth: np.ndarray) -> None:
    for name, value in (("frames", frames), ("truth", truth)):
        assert value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] == 3, f"{name}: got {value.dtype} {value.shape}"
    assert frames.shape == truth.shape and len(frames) > 0, f"expected equal shapes, got {frames.shape} and {truth.shape}"


def _pairs(frames: np.ndarray, truth: np.ndarray):
    for start in range(0, len(frames), _CHUNK):
        yield tuple(torch.from_numpy(x[start : start + _CHUNK].copy()).permute(0, 3, 1, 2).float() for x in (frames, truth))


def _gaussian(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Gaussian of 11 taps, sigma 1.5, over both axes, only where it fits: H and W shrink by 10."""
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float32) / 1.5) ** 2)
    taps = (taps / taps.sum()).expand(x_BCHW.shape[1], 1, 1, 11)
    x_BCHW = F.conv2d(x_BCHW, taps, groups=x_BCHW.shape[1])
    return F.conv2d(x_BCHW, taps.transpose(2, 3), groups=x_BCHW.shape[1])


def _sobel(x_BCHW: torch.Tensor) -> torch.Tensor:
    grey = (x_BCHW * torch.tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    grey = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]]) / 4
    both = F.conv2d(grey, torch.stack([kernel, kernel.T]).unsqueeze(1))
    return (both.square().sum(dim=1, keepdim=True) / 2).sqrt()
