"""How far back in time a video tokenizer looks: what a training window must hold, or be told not to."""

from dataclasses import replace

import torch

from wfm_ar.tokenizers.video.causal_conv import CausalConv3d
from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig

LATENTS = 8  # of the clip that is passed through


def reach_in_time(config: VideoTokenizerConfig) -> int:
    """How many frames before a frame can change what the tokenizer gives back of it, at most; 0 = each frame stands by itself.

    Every convolution in time lies on the one way through the network, so what each looks back adds up. Read off a pass of a clip
    without content. Attention in time, which looks at everything there is, is left out.
    """
    frames, looks_back = 1 + config.temporal_compression * LATENTS, []

    def look(module: CausalConv3d, inputs: tuple[torch.Tensor, ...]) -> None:
        frames_a_step = (frames - 1) / (inputs[0].shape[2] - 1)
        looks_back.append((module.kernel_size[0] - 1) * frames_a_step)

    sizes = {"height": config.spatial_compression, "width": config.spatial_compression}
    with torch.device("meta"), torch.no_grad():
        network = VideoTokenizer(replace(config, **sizes, attention=False, background=False)).eval()
        for module in network.modules():
            if isinstance(module, CausalConv3d):
                module.register_forward_pre_hook(look)
        network(torch.zeros(1, 3, frames, config.spatial_compression, config.spatial_compression))
    return round(sum(looks_back)) + config.temporal_compression - 1
