"""The video metrics against scikit-image, hand-made cases, and their conventions."""

import numpy as np
import pytest
from skimage import filters
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wfm_ar.evaluate import metrics

LUMINANCE = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A picture with structure that moves, and a noisy, slightly blurred copy. uint8 [37, 40, 56, 3] each (37 > one chunk)."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:40, 0:56]
    truth = np.stack([[128 + 90 * np.sin((x + t) / (4 + c)) * np.cos(y / (5 + c)) for c in range(3)] for t in range(37)])
    truth = truth.transpose(0, 2, 3, 1)
    noisy = 0.5 * truth + 0.5 * np.roll(truth, 1, axis=2) + rng.normal(0, 8, truth.shape)
    return np.clip(noisy, 0, 255).round().astype(np.uint8), truth.round().astype(np.uint8)


def test_psnr_equals_scikit_image_frame_by_frame(pair):
    frames, truth = pair
    expected = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(frames, truth, strict=True)]
    np.testing.assert_allclose(metrics.psnr_frames(frames, truth), expected, atol=1e-4)
    assert metrics.psnr(frames, truth) == pytest.approx(np.mean(expected), abs=1e-4)


def test_psnr_of_equal_frames_is_the_cap_and_known_values_hold():
    black = np.zeros((2, 16, 16, 3), np.uint8)
    assert metrics.psnr(black, black) == metrics.PSNR_CAP
    one = black.copy()
    one[1] = 16
    np.testing.assert_allclose(metrics.psnr_frames(one, black), [metrics.PSNR_CAP, 20 * np.log10(255 / 16)])
    np.testing.assert_allclose(metrics.mse_frames(one, black), [0.0, 256.0])


def test_ssim_equals_scikit_image_frame_by_frame(pair):
    frames, truth = pair
    expected = [
        structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=-1)
        for a, b in zip(frames, truth, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim_frames(frames, truth), expected, atol=2e-4)
    assert metrics.ssim(truth, truth) == pytest.approx(1.0, abs=1e-6)


def test_edge_error_equals_scikit_image_inside_the_border(pair):
    frames, truth = pair
    edges = [[filters.sobel(x @ LUMINANCE) for x in clip.astype(np.float64)] for clip in (frames, truth)]
    expected = np.abs(np.array(edges[0]) - np.array(edges[1])).mean()
    assert metrics.edge_error(frames, truth) == pytest.approx(expected, rel=1e-4)
    assert metrics.edge_error(truth, truth) == 0.0


def test_edge_error_of_a_step_edge_is_known():
    step = np.zeros((1, 16, 20, 3), np.uint8)
    step[:, :, 10:] = 200
    flat = np.full_like(step, 100)
    # two columns of the twenty see a step of 200 over two pixels' distance: |gx| = 200 each, magnitude 200 / sqrt(2)
    assert metrics.edge_error(step, flat) == pytest.approx(2 / 20 * 200 / np.sqrt(2), rel=1e-5)


def test_flicker_sees_only_motion_that_differs(pair):
    frames, truth = pair
    assert metrics.flicker(np.clip(truth, 0, 250) + np.uint8(5), np.clip(truth, 0, 250)) == 0.0  # a constant offset is no flicker
    a, b = frames.astype(float), truth.astype(float)
    expected = np.abs((a[1:] - a[:-1]) - (b[1:] - b[:-1])).mean()
    assert metrics.flicker(frames, truth) == pytest.approx(expected, rel=1e-6)


def test_code_usage_and_perplexity():
    assert metrics.code_usage(np.array([5, 5, 5, 5])) == pytest.approx((1.0, 4.0))
    assert metrics.code_usage(np.array([9, 0, 0, 0])) == pytest.approx((0.25, 1.0))
    used, perplexity = metrics.code_usage(np.array([3, 1, 0, 0]))
    assert used == 0.5 and perplexity == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def test_pearson_r_equals_numpy_and_a_constant_follows_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200))
    assert metrics.pearson_r(x, y + x) == pytest.approx(np.corrcoef(x, y + x)[0, 1])
    assert metrics.pearson_r(x, -3 * x + 2) == pytest.approx(-1.0)
    assert metrics.pearson_r(x, np.full_like(x, 7.3)) == 0.0


def test_frames_of_another_shape_or_kind_are_refused(pair):
    frames, truth = pair
    with pytest.raises(AssertionError, match="equal shapes"):
        metrics.psnr(frames[:3], truth)
    with pytest.raises(AssertionError, match="frames: got float64"):
        metrics.ssim(frames.astype(np.float64), truth)


def test_perceptual_distance_sees_structure_and_not_only_errors():
    truth = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    assert metrics.perceptual_frames(truth, truth) == pytest.approx([0, 0], abs=1e-6)
    brighter = (truth.astype(int) + 8).clip(0, 255).astype(np.uint8)
    blurred = truth.astype(float)
    for axis in (1, 2):
        blurred = sum(np.roll(blurred, k, axis) for k in range(-3, 4)) / 7
    unlike = np.random.default_rng(1).integers(0, 256, truth.shape, dtype=np.uint8)
    near, far, farthest = (metrics.perceptual_frames(each, truth).mean() for each in (brighter, blurred.astype(np.uint8), unlike))
    assert near < 0.05 < 0.2 < far < farthest < 1.1
