"""A whole clip as a diffusion decoder of the published kind sees its tokens: chunk by chunk, in latents of another tokenizer."""

import numpy as np
import torch
from torch import Tensor

from wfm_ar.diffusion_decoder.dit import DiT
from wfm_ar.diffusion_decoder.dit_sampler import CHUNK, blend_chunks, dit_noise, dit_sample, overlap_frames, split_chunks
from wfm_ar.errors import BadConfig
from wfm_ar.rollout.frame_decoder import to_uint8
from wfm_ar.rollout.placement import Placement
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizer

GUIDANCE = 1.8  # as published


class ClipRefiner:
    """The diffusion transformer and the continuous tokenizer whose latents it makes."""

    def __init__(self, dit: DiT, latent_tokenizer: ContinuousTokenizer, context_SC: Tensor | None, placement: Placement) -> None:
        """context_SC: the text embedding that it is given where there is no text; None = zeros."""
        self.dit, self.latent_tokenizer, self.placement = dit, latent_tokenizer, placement
        self.context_SC = torch.zeros(1, dit.config.context_dim) if context_SC is None else context_SC

    @property
    def multiple(self) -> int:
        """Pixels that the sides of a picture must be multiples of."""
        return self.dit.config.patch * self.latent_tokenizer.config.spatial_compression

    @staticmethod
    def check(steps: int, guidance: float) -> None:
        """Raises BadConfig."""
        if steps < 2 or guidance < 0:
            raise BadConfig(f"refine_steps, guidance: got {steps}, {guidance}, expected at least 2 and 0; fix: 15 and 1.8, as published")

    @torch.inference_mode()
    def refine(
        self,
        tokens_thw: Tensor,
        *,
        spatial_compression: int,
        seed: int,
        fps: float,
        steps: int,
        guidance: float = GUIDANCE,
        published: bool = False,
        context_SC: Tensor | None = None,
    ) -> np.ndarray:
        """Tokens int64 [1 + n, h, w] of a tokenizer with `spatial_compression` pixels a side -> uint8 [1 + r*n, H, W, 3].

        published: the blend of overlapping chunks as the published code does it (see overlap_frames). context_SC: the text, if any.
        """
        latent, rate = self.latent_tokenizer, self.latent_tokenizer.config.temporal_compression
        ratio = spatial_compression // latent.config.spatial_compression
        context = self.context_SC if context_SC is None else context_SC
        shape = (latent.config.latent_channels, CHUNK, tokens_thw.shape[1] * ratio, tokens_thw.shape[2] * ratio)
        clips = []
        with self.placement.at_work("diffusion_decoder", "latent_tokenizer"):
            for number, places in enumerate(split_chunks(len(tokens_thw))):
                noise = dit_noise([seed], shape, number)
                x = dit_sample(self.dit, tokens_thw[None, places], context[None], noise, steps=steps, guidance=guidance, fps=fps)
                clips.append(latent.decode(x / self.dit.config.sigma_data).float().cpu())
        video = blend_chunks(clips, overlap_frames(rate, published=published))
        return to_uint8(video[:, :, : 1 + rate * (len(tokens_thw) - 1)])
