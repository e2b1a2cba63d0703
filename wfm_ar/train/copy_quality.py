"""How well a trained tokenizer copies the pictures that a prompt may be: kept in the world, so that others stand out."""

import numpy as np
import torch

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.rollout.detail import TrainingCopies
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.clips import Clips, psnr, to_float

CLIPS = 48  # that are looked at


@torch.inference_mode()
def training_copies(tokenizer: VideoTokenizer, episodes: EpisodeSet) -> TrainingCopies:
    """The first picture of some clips, and the last one of the latent behind it, copied as prompts are."""
    clips, scores = Clips(episodes, tokenizer.config), []
    device = next(tokenizer.parameters()).device
    for index in dict.fromkeys(np.linspace(0, len(clips) - 1, min(CLIPS, len(clips))).astype(int).tolist()):
        frames = clips.beginning(index)
        for given in (frames[:1], frames[: 1 + tokenizer.config.temporal_compression])[: len(frames)]:
            video = to_float(given).permute(3, 0, 1, 2)[None].to(device)
            error = tokenizer.decode(tokenizer.encode(video)).clamp(-1, 1) - video
            scores.append(float(psnr(error[:, :, -1])))
    return TrainingCopies(pictures=len(scores), median_db=round(float(np.median(scores)), 2), least_db=round(min(scores), 2))
