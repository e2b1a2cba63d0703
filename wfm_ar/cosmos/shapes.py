"""The published Cosmos networks as values of our own configurations, and what they weigh.

Sources: the model configurations of github.com/nvidia-cosmos/cosmos-predict1 (Apache-2.0). "5B" is 4B with cross-attention, "13B"
is 12B with cross-attention; both have one more input id, BOV, and an embedding rounded up to a multiple of 64 rows.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn

from wfm_ar.diffusion_decoder.dit import DiT, DiTConfig
from wfm_ar.errors import BadConfig, nearest
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizer, ContinuousTokenizerConfig
from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.without_memory import without_memory
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

FRAMES, HEIGHT, WIDTH, FPS = 33, 640, 1024, 24.0  # what the published weights were trained at
CODEBOOK = 64000
ROUND_ROWS = 64  # rows of an embedding with special ids are rounded up to a multiple of this
TEXT_TOKENS, TEXT_WIDTH = 512, 1024  # T5 embeddings, zeros behind the text; all of them are attended to
YARN_SHAPE = (3, 40)  # latent frames and rows of the grid that 12B and 13B were first trained on

_4B = WorldModelConfig(
    vocab=CODEBOOK, out_vocab=CODEBOOK, layers=16, dim=4096, heads=32, kv_heads=8, head_dim=128, hidden=14336, theta=500000.0
)  # fmt: skip
_12B = replace(_4B, layers=40, dim=5120, yarn_shape=YARN_SHAPE)
_TEXT = {"vocab": CODEBOOK + ROUND_ROWS, "context_dim": TEXT_WIDTH, "additive_positions": True}

WORLD_MODELS: dict[str, WorldModelConfig] = {"4b": _4B, "5b": replace(_4B, **_TEXT), "12b": _12B, "13b": replace(_12B, **_TEXT)}
RECOMMENDED_TOP_P = {"4b": 0.8, "5b": 0.7, "12b": 0.9, "13b": 0.8}  # at temperature 1

_SWITCHES = {"norm": "frame", "attention": True, "factorised_ends": True, "background": False, "normalise": False}
_WIDTHS = {"encoder_channels": 128, "decoder_channels": 128, "multipliers": (2, 4, 4), "encoder_blocks": 2, "decoder_blocks": 3}
_SIZE = {"height": HEIGHT, "width": WIDTH}
LEVELS = (8, 8, 8, 5, 5, 5)
_DV: dict[str, Any] = {"levels": LEVELS} | _SIZE | _WIDTHS | _SWITCHES

VIDEO_TOKENIZERS: dict[str, VideoTokenizerConfig] = {
    "dv8x16x16": VideoTokenizerConfig(temporal_compression=8, spatial_compression=16, patch_time=4, patch_space=4, z_channels=16, **_DV),
    "dv4x8x8": VideoTokenizerConfig(temporal_compression=4, spatial_compression=8, patch_time=2, patch_space=2, z_channels=256, **_DV),
}
LATENT_TOKENIZERS: dict[str, ContinuousTokenizerConfig] = {
    "cv8x8x8": ContinuousTokenizerConfig(
        temporal_compression=8, spatial_compression=8, patch_time=4, patch_space=4, z_channels=16, latent_channels=16, **_DV
    )
}
DECODERS: dict[str, DiTConfig] = {"decoder-7b": DiTConfig()}

Config = WorldModelConfig | VideoTokenizerConfig | DiTConfig
PUBLISHED: dict[str, Config] = {**WORLD_MODELS, **VIDEO_TOKENIZERS, **LATENT_TOKENIZERS, **DECODERS}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of network: its part in a world, and how to build it."""

    part: str
    module: type[nn.Module]


def kind_of(config: Config) -> Kind:
    """What a configuration is of."""
    if isinstance(config, WorldModelConfig):
        return Kind(part="world_model", module=WorldModel)
    if isinstance(config, ContinuousTokenizerConfig):
        return Kind(part="latent_tokenizer", module=ContinuousTokenizer)
    if isinstance(config, VideoTokenizerConfig):
        return Kind(part="video_tokenizer", module=VideoTokenizer)
    return Kind(part="diffusion_decoder", module=DiT)


def published(name: str) -> Config:
    """The configuration of a published network. Raises BadConfig, naming the nearest."""
    if name not in PUBLISHED:
        raise BadConfig(f"cosmos name: got {name!r}{nearest(name, PUBLISHED)}, expected one of {list(PUBLISHED)}; fix: choose one of them")
    return PUBLISHED[name]


def on_meta(config: Config) -> nn.Module:
    """The network without memory for its weights: for counts, names and shapes."""
    with without_memory():
        return kind_of(config).module(config)


@cache
def count_parameters(config: Config) -> int:
    """Numbers that training sets; buffers are not counted."""
    return sum(p.numel() for p in on_meta(config).parameters())


def cache_bytes(config: WorldModelConfig, tokens: int, rows: int = 1, bytes_each: int = 2) -> int:
    """Memory of keys and values."""
    return 2 * config.layers * config.kv_heads * config.head_dim * tokens * rows * bytes_each
