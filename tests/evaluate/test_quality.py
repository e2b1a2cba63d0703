"""Summaries of picture quality on clips whose errors are known."""

import numpy as np
import pytest

from wfm_ar.evaluate import quality


def db(error: float) -> float:
    return 20 * np.log10(255 / error)


@pytest.fixture
def truth() -> np.ndarray:
    """uint8 [33, 16, 16, 3]: frame t is 100 + 2t everywhere."""
    return np.broadcast_to((100 + 2 * np.arange(33, dtype=np.uint8))[:, None, None, None], (33, 16, 16, 3)).copy()


def test_gains_are_measured_at_the_frame_they_are_named_after(truth):
    clips = {"tokenizer": truth + np.uint8(1), "raw": truth + np.uint8(4), "refined": truth + np.uint8(2)}
    report = quality.rollout_summary([quality.rollout_row(str(i), truth, clips) for i in range(3)])
    for frame in (8, 16, 24, 32):  # "repeat" is off by 2 * frame there
        assert report[f"gain_{frame}"] == pytest.approx(db(4) - db(2 * frame))
        assert report[f"gap_{frame}"] == pytest.approx(db(1) - db(4))
        assert report[f"refined_gain_{frame}"] == pytest.approx(db(2) - db(2 * frame))
    assert "gain_48" not in report and report["episodes"] == 3
    assert len(report["psnr_by_frame"]["raw"]) == 32 and np.shape(report["ssim_quartiles"]) == (2, 32)


def test_refined_changes_are_those_of_the_rollouts_as_decoded():
    numbers = {"psnr": 30.0, "ssim": 0.9, "edge_error": 2.0, "flicker": 1.0}
    better = {"psnr": 31.0, "ssim": 0.95, "edge_error": 1.5, "flicker": 0.9}
    rows = {"rollouts": [{"raw": numbers, "refined": better}] * 2, "rollouts as shown": [{"raw": numbers, "refined": numbers}]}
    rows |= {"reconstructions": [{"raw": better, "refined": numbers}]}
    report = quality.refined_summary(rows)
    assert report["edge_change"] == pytest.approx(-0.25) and report["flicker_change"] == pytest.approx(-0.1)
    assert report["psnr_change"] == pytest.approx(1.0)
    assert report["reconstructions"]["edge_change"] == pytest.approx(1 / 3) and report["rollouts as shown"]["edge_change"] == 0


def test_the_tokenizer_tally_adds_clips_of_different_lengths(truth):
    tally = quality.TokenizerTally(8)
    tokens = np.zeros((9, 2, 2), dtype=np.int64)
    tokens[2:, 0, 0] = 3  # changes once, from latent 1 to latent 2
    tokens[0] = 7  # the first latent's own codes are no change
    tally.add(truth, truth + np.uint8(1), tokens)
    tally.add(truth[:17], truth[:17] + np.uint8(2), np.full((5, 2, 2), 1))
    report = tally.summary()
    assert report["psnr"] == pytest.approx((33 * db(1) + 17 * db(2)) / 50)
    assert report["code_usage"] == 4 / 8 and report["codes"] == 8 and report["frames"] == 50
    assert report["still_tokens"] == pytest.approx(1 - 1 / (7 * 4 + 3 * 4))
    assert report["sorted_counts"] == [25, 20, 7, 4, 0, 0, 0, 0]
