"""Stage 5, where there is one: a small network learns to read actions off pairs of frames, true ones and the tokenizer's copies of them."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.errors import BadData
from wfm_ar.inverse_dynamics.network import InverseDynamics, InverseDynamicsConfig, bin_values, read_actions
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.clips import Clips, to_float, to_uint8
from wfm_ar.train.tokens import action_vocabulary, bins_of
from wfm_ar.train.windows import Windows, WindowSampler

COPIES = 0.5  # share of the samples whose frames are the tokenizer's copies: imagined frames are made as those are


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsTraining:
    """How stage 5 samples."""

    windows_per_clip: int = 4  # pairs of frames cut from one decoded clip
    val_clips: int = 24


class InverseDynamicsStage:
    """Smooth absolute error of the mean action between the frames of two latents; the tokenizer is frozen and runs inside the loss."""

    name = "inverse_dynamics"
    judged_by = ("r", 1)

    def __init__(
        self,
        config: InverseDynamicsConfig,
        training: InverseDynamicsTraining,
        tokenizer: VideoTokenizer,
        train_set: EpisodeSet,
        val_set: EpisodeSet,
        cache: FrameCache | None = None,
    ):
        """Raises BadData for data without actions."""
        actions = action_vocabulary(train_set.schema)
        if actions is None:
            raise BadData(f"{train_set.path}: got no actions, expected some for inverse_dynamics; fix: inverse_dynamics=none")
        self.training, self.tokenizer, self._actions = training, tokenizer.eval().requires_grad_(False), actions
        self.train_set, self.val_set, self.rate = train_set, val_set, tokenizer.config.temporal_compression
        self.config = replace(config, actions=len(actions.bins))
        self.model = InverseDynamics(self.config)
        clips, self.val_clips = (Clips(episodes, tokenizer.config, cache) for episodes in (train_set, val_set))
        windows = Windows(window=1 + self.rate, windows_per_clip=training.windows_per_clip, crop=0)
        self.windows = WindowSampler(windows, clips, tokenizer.background.clone() if tokenizer.config.background else None)
        self.to_decode = clips.to_decode

    def describe(self) -> dict:
        return {"model": asdict(self.config), "training": asdict(self.training), "clips": len(self.train_set)}

    def batch(self, step: int, size: int, seed: int) -> dict[str, torch.Tensor]:
        """See WindowSampler.batch; with float `values` [B, A], the mean of the actions, NaN where there are none."""
        batch = self.windows.batch(step, size, seed)
        batch["values"] = torch.stack(
            [self._values(self.train_set, int(clip), int(start), 1)[0] for clip, start in zip(batch["clip"], batch["start"], strict=True)]
        )
        return batch

    def _values(self, episodes: EpisodeSet, index: int, start: int, latents: int) -> torch.Tensor:
        """float [latents, A]: the mean action that leads to each latent after frame `start`."""
        bins = bins_of(episodes, index, start + latents * self.rate, self._actions)[start:].astype(np.int64)
        return bin_values(torch.from_numpy(bins), self._actions.bins).unflatten(0, (latents, self.rate)).mean(1)

    def clip_ids(self, batch: dict[str, torch.Tensor]) -> list[str]:
        """See WindowSampler.clip_ids."""
        return self.windows.clip_ids(batch)

    def loss(self, model, batch, generator):
        foreground, values = batch["foreground"], batch["values"]
        with torch.no_grad():
            copies = self.tokenizer.to(foreground.device)(foreground)[0].to(foreground.dtype)
            drawn_B = torch.rand(len(foreground), generator=generator, device=foreground.device) < COPIES
            frames = torch.where(drawn_B[:, None, None, None, None], copies, foreground) + batch["still"]
        made = model(frames[:, :, 0], frames[:, :, -1]).float()
        known = ~values.isnan()
        error = F.smooth_l1_loss(made, values.nan_to_num(0.0), reduction="none", beta=0.1)
        return (error * known).sum() / known.sum().clamp_min(1), {}

    @torch.no_grad()
    def validate(self, model, device):
        """Correlation of what is read off the tokenizer's copies of held-out clips with their actions: the mean over channels."""
        read, told = [], []
        for index in range(min(self.training.val_clips, len(self.val_clips))):
            clip = self.val_clips.beginning(index)
            if len(clip) < 1 + self.rate:
                continue
            tokens = self.tokenizer.encode(to_float(clip).permute(3, 0, 1, 2)[None].to(device))
            copies = to_uint8(self.tokenizer.decode(tokens)[0].permute(1, 2, 3, 0)).cpu().numpy()
            read.append(read_actions(model, copies, self.rate))
            told.append(self._values(self.val_set, index, 0, len(read[-1])).numpy())
        if not read:
            return {}, {}
        return {"r": float(np.mean(correlations(np.concatenate(read), np.concatenate(told))))}, {}


def correlations(a_NA: np.ndarray, b_NA: np.ndarray) -> list[float]:
    """Pearson's r of each column over the rows that both know; 0 where one of them does not vary."""
    out = []
    for a, b in zip(a_NA.T, b_NA.T, strict=True):
        known = ~(np.isnan(a) | np.isnan(b))
        varies = known.sum() > 1 and a[known].std() > 1e-6 and b[known].std() > 1e-6
        out.append(float(np.corrcoef(a[known], b[known])[0, 1]) if varies else 0.0)
    return out
