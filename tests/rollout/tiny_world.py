"""A tiny world with random weights, and its parts, for the tests of the rollout package."""

from dataclasses import replace

import numpy as np
import torch
from tiny_stages import TEXTS, TOKENIZER

from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.frame_predictor.network import FramePredictor, FramePredictorConfig
from wfm_ar.rollout.world import WorldParts
from wfm_ar.schema import ActionChannel, ActionSchema, Schema
from wfm_ar.tokenizers.action import ActionVocabulary
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video.model import VideoTokenizer
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig

SCHEMA = ActionSchema(
    channels=tuple(ActionChannel(name=name, unit="m", low=-0.025, high=0.025, bins=9) for name in ("dx", "dy")), rate_hz=10.0
)


def make_parts(
    *,
    text: bool = True,
    actions: bool = True,
    refine: bool = True,
    max_latents: int = 4,
    schema: Schema = SCHEMA,
    sums: bool = True,
    lookahead: bool = False,
) -> WorldParts:
    """16 x 24 pixels, 2 x 3 tokens a latent, 2 frames a latent; with a lookahead 1, and a scene reader."""
    torch.manual_seed(0)
    rate = 1 if lookahead else 2
    tokenizer = VideoTokenizer(replace(TOKENIZER, temporal_compression=1, patch_time=1, time_kernel=1) if lookahead else TOKENIZER).eval()
    texts = TextTokenizer.train(TEXTS, vocab_size=300, max_tokens=12) if text else None
    config = SequenceConfig(
        video_vocab=tokenizer.codebook_size,
        levels=tokenizer.config.levels,
        grid_h=2,
        grid_w=3,
        rate=rate,
        action_bins=ActionVocabulary(schema).bins if actions else (),
        text_vocab=texts.vocab_size if texts else 0,
        max_text=12,
        max_latents=max_latents,
        action_sums=sums,
        lookahead=lookahead,
    )
    sizes = dict(layers=1, dim=32, heads=4, kv_heads=2, head_dim=8, hidden=48, theta=10000.0, scene_channels=8 * lookahead, scene_blocks=1)
    model = WorldModel(WorldModelConfig(**Sequence(config).model_vocabularies(), **sizes)).eval()
    for weight, std in ((model.head.weight, 0.5), (model.embedding.weight, 1.0), (model.hints.down.weight, 0.3)):
        torch.nn.init.normal_(weight, std=std)  # the head starts at zero, which would make every token as likely
    predictor = None
    if lookahead:
        shape = FramePredictorConfig(actions=len(config.action_bins), history=3, patch=2, channels=(8, 8), blocks=(1, 1, 1), embedding=8)
        predictor = FramePredictor(shape).eval()
        for parameter in predictor.parameters():  # it starts by repeating the last frame
            torch.nn.init.normal_(parameter, std=0.2)
    denoiser = None
    if refine:
        widths = dict(channels=(8,), blocks=(1,), embedding=8, code_channels=3)
        denoiser = Denoiser(DenoiserConfig(temporal_compression=rate, spatial_compression=8, patch=4, **widths)).eval()
        for parameter in denoiser.parameters():  # it starts as the identity
            torch.nn.init.normal_(parameter, std=0.1)
    return WorldParts(
        video_tokenizer=tokenizer,
        sequence=config,
        world_model=model,
        fps=10.0,
        text_tokenizer=texts,
        action_schema=schema if actions else None,
        frame_predictor=predictor,
        diffusion_decoder=denoiser,
    )


def make_video(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 24, 3), dtype=np.uint8)


def make_actions(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.025, 0.025, (count, 2)).astype(np.float32)
