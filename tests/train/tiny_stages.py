"""The three real stages, tiny, on clips of a square that moves: what the tests of training that survives run on."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from wfm_ar.data.formats import open_episodes
from wfm_ar.data.shards import TokenClip, TokenStore, write_store
from wfm_ar.data.video import write_video
from wfm_ar.diffusion_decoder.denoiser import DenoiserConfig
from wfm_ar.diffusion_decoder.edm import LossConfig
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.train.diffusion_decoder_stage import DiffusionDecoderStage, DiffusionDecoderTraining
from wfm_ar.train.rng import seed_all
from wfm_ar.train.settings import LoopConfig, OptimizerConfig
from wfm_ar.train.video_tokenizer_stage import VideoTokenizerStage, VideoTokenizerTraining
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import SequenceConfig, WorldModelConfig

STAGES = ("video_tokenizer", "world_model", "diffusion_decoder")
TEXTS = ["push the red cube left", "push the blue ball right", "do nothing"]
TOKENIZER = VideoTokenizerConfig(
    height=16,
    width=24,
    temporal_compression=2,
    spatial_compression=8,
    patch_time=2,
    encoder_channels=8,
    decoder_channels=8,
    multipliers=(1, 1),
    encoder_blocks=1,
    decoder_blocks=1,
    z_channels=8,
    levels=(4, 3, 3),
)


def make_data(folder: Path) -> Path:
    """Four clips and a store of tokens, once."""
    if not (folder / "videos").exists():
        (folder / "videos").mkdir(parents=True)
        for i in range(4):
            frames = np.full((9, 16, 24, 3), 90, np.uint8)
            for t in range(9):
                frames[t, 2 + i : 8 + i, t : t + 8] = 250
            write_video(folder / "videos" / f"{i}.mp4", frames, 10)
        write_store(folder / "tokens", {"actions": True}, 12, lambda part: map(_clip, part), 8, lambda done: None)
    return folder


def _clip(i: int) -> TokenClip:
    rng = np.random.default_rng(i)
    bins = rng.integers(3, size=(4, 2, 1)).astype(np.int16)
    return TokenClip(f"clip-{i}", rng.integers(20, size=(5, 2, 2)).astype(np.uint16), bins, TEXTS[i % 3])


def make_stage(name: str, data: Path, seed: int = 0):
    """A stage with fresh weights, the same every time."""
    seed_all(seed)
    if name == "world_model":
        text = TextTokenizer.train(TEXTS, vocab_size=300, max_tokens=16)
        sequence = SequenceConfig(
            video_vocab=20, grid_h=2, grid_w=2, rate=2, action_bins=(3,), text_vocab=text.vocab_size, max_text=16, max_latents=5
        )
        model = WorldModelConfig(layers=2, dim=32, heads=2, kv_heads=1, head_dim=16, hidden=48, theta=100.0)
        store = TokenStore(data / "tokens")
        return WorldModelStage(model, sequence, WorldModelTraining(short=3, val_clips=2), store, store, text)
    clips = open_episodes(data / "videos")
    if name == "video_tokenizer":
        return VideoTokenizerStage(TOKENIZER, VideoTokenizerTraining(window=5, crop=0, val_clips=1), clips, clips)
    training = DiffusionDecoderTraining(window=5, crop=0, val_clips=1, loss=replace(LossConfig(), sigma_std=1.2))
    tokenizer = VideoTokenizer(TOKENIZER)
    widths = dict(channels=(8,), blocks=(1,), embedding=8)
    return DiffusionDecoderStage(DenoiserConfig(patch=4, **widths), training, tokenizer, clips, clips)


def loop_config(steps: int, **settings) -> LoopConfig:
    """A validation, a checkpoint and a log line at different steps."""
    often = {"log_every": 2, "val_every": 5, "checkpoint_every": 3, "batch_size": 2, "keep": 3}
    return LoopConfig(steps=steps, optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2, ema=0.9), **(often | settings))
