"""How good the pictures are: tokenizer reconstructions, rollouts against their horizon, refined frames against raw ones.

Functions of clips, uint8 [T, H, W, 3]; where they come from is not known here. Rows are made clip by clip, so that no more
than one batch of clips is held at a time, and summarised at the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wfm_ar.evaluate import metrics

REFINED = ("rollouts", "rollouts as shown", "reconstructions")  # what raw and refined frames are compared on
HORIZONS = (8, 16, 24, 32, 48)  # frame indices that get a number of their own, where the clips are that long


@dataclass(frozen=True, kw_only=True)
class RolloutRow:
    """PSNR (dB) and SSIM of every frame of one rollout from frame 1 on, float64 [T-1] each, by who made the frames."""

    id: str
    psnr: dict[str, np.ndarray]
    ssim: dict[str, np.ndarray]


def rollout_row(id: str, truth: np.ndarray, clips: Mapping[str, np.ndarray]) -> RolloutRow:
    """A row from the true clip and what stands for it, all of one shape: "tokenizer" (reconstruction), "raw", "refined" (rollouts
    without a pixel of the given picture), "shown" (a rollout that keeps it where nothing moves).

    "repeat", the first true frame for ever, is added. Frame 0 was given and is not counted.
    """
    everything = {"repeat": truth[:1].repeat(len(truth), axis=0), **clips}
    return RolloutRow(
        id=id,
        psnr={name: metrics.psnr_frames(clip[1:], truth[1:]) for name, clip in everything.items()},
        ssim={name: metrics.ssim_frames(clip[1:], truth[1:]) for name, clip in everything.items()},
    )


def rollout_summary(rows: Sequence[RolloutRow]) -> dict[str, Any]:
    """Means over episodes by frame, the rollouts' quartiles, and for each of HORIZONS the gain over "repeat" and the gap to the tokenizer.

    Gains and gaps are differences of PSNR in dB, averaged over episodes, of raw rollouts ("gain_16"), refined ones ("refined_gain_16")
    and rollouts as they are shown ("shown_gain_16").
    """
    report: dict[str, Any] = {"episodes": len(rows), "psnr_raw_last": float(np.mean([row.psnr["raw"][-1] for row in rows]))}
    for kind in ("psnr", "ssim"):
        stacks = {name: np.stack([getattr(row, kind)[name] for row in rows]) for name in getattr(rows[0], kind)}
        report[f"{kind}_by_frame"] = {name: stack.mean(axis=0).tolist() for name, stack in stacks.items()}
        report[f"{kind}_quartiles"] = np.percentile(stacks["raw"], (25, 75), axis=0).tolist()
    means = {name: np.array(curve) for name, curve in report["psnr_by_frame"].items()}
    for frame in (frame for frame in HORIZONS if frame <= len(means["raw"])):
        report[f"gain_{frame}"] = float(means["raw"][frame - 1] - means["repeat"][frame - 1])
        report[f"gap_{frame}"] = float(means["tokenizer"][frame - 1] - means["raw"][frame - 1])
        for name in {"refined", "shown"} & means.keys():
            report[f"{name}_gain_{frame}"] = float(means[name][frame - 1] - means["repeat"][frame - 1])
    return report


def picture_numbers(frames: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR, SSIM, edge error and flicker of one clip, T >= 2."""
    measures = {"psnr": metrics.psnr, "ssim": metrics.ssim, "edge_error": metrics.edge_error, "flicker": metrics.flicker}
    return {name: measure(frames, truth) for name, measure in measures.items()}


def refined_summary(rows: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> dict[str, Any]:
    """Means of picture_numbers over clips, and the changes the bars judge, which are those of the rollouts as decoded.

    `rows`: for each of REFINED a list of {"raw": picture_numbers, "refined": picture_numbers}. "rollouts" are frames as the two
    decoders make them; in "rollouts as shown", "refined" also keeps the given picture where nothing moves (rollout/detail.py).
    `edge_change` and `flicker_change` are shares of the raw value (-0.15: 15 % less; None where that is 0), `psnr_change` is in dB.
    """
    report: dict[str, Any] = {}
    for where, clips in rows.items():
        report[where] = {
            kind: {name: float(np.mean([clip[kind][name] for clip in clips])) for name in clips[0][kind]} for kind in ("raw", "refined")
        }
        raw, refined = report[where]["raw"], report[where]["refined"]
        for name, change in (("edge_error", "edge_change"), ("flicker", "flicker_change")):  # a still clip decoded as still has none
            report[where][change] = refined[name] / raw[name] - 1 if raw[name] else None
        report[where]["psnr_change"] = refined["psnr"] - raw["psnr"]
    changes = {name: report["rollouts"][name] for name in ("edge_change", "psnr_change", "flicker_change")}
    return report | changes


class TokenizerTally:
    """Adds up what a tokenizer does to clips: `add` each one, then `summary`."""

    def __init__(self, codes: int) -> None:
        self.counts = np.zeros(codes, dtype=np.int64)
        self.psnr: list[np.ndarray] = []  # [T] of each clip
        self.ssim: list[np.ndarray] = []
        self.still = self.pairs = 0

    def add(self, truth: np.ndarray, decoded: np.ndarray, tokens_thw: np.ndarray) -> None:
        """One clip, its reconstruction (both uint8 [T, H, W, 3]) and its tokens."""
        self.counts += np.bincount(tokens_thw.ravel(), minlength=len(self.counts))
        self.psnr.append(metrics.psnr_frames(decoded, truth))
        self.ssim.append(metrics.ssim_frames(decoded, truth))
        later = tokens_thw[1:]  # the first latent stands for one frame and has codes of its own: compared from the second on
        self.still += int((later[1:] == later[:-1]).sum())
        self.pairs += later[1:].size

    def summary(self) -> dict[str, Any]:
        """Means over all frames of all clips; share and perplexity of the codes; share of tokens equal to the latent before."""
        usage, perplexity = metrics.code_usage(self.counts)
        return {
            "psnr": float(np.concatenate(self.psnr).mean()),
            "ssim": float(np.concatenate(self.ssim).mean()),
            "code_usage": usage,
            "perplexity": perplexity,
            "codes": len(self.counts),
            "sorted_counts": np.sort(self.counts)[::-1].tolist(),
            "still_tokens": self.still / max(self.pairs, 1),
            "clips": len(self.psnr),
            "frames": int(sum(len(values) for values in self.psnr)),
        }
