"""The transformer: ids and positions in, logits out. But for what a scene reader is shown, `sequence.py` alone knows of modalities."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from wfm_kernels import linear_cross_entropy

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.sizes import check_parameters, check_sizes
from wfm_ar.world_model.block import Block
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.linear import Linear
from wfm_ar.world_model.norm import RMSNorm
from wfm_ar.world_model.rotary import rotary_frequencies, rotary_tables, sincos_positions
from wfm_ar.world_model.scene import SceneReader, Scenes

LOOK_WEIGHT = 0.3  # of how far the scene reader's first look is from what moves, beside the loss of the tokens
EARLIER_MODEL = {"scene_channels": 0, "scene_blocks": 2, "scene_digits": 0, "scene_words": 0}  # of settings from before they had them


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """Widths and switches; the vocabularies usually come from the sequence (`Sequence.model_vocabularies`)."""

    vocab: int = 0  # rows of the input embedding
    out_vocab: int = 0  # width of the logits: ids that can be predicted
    hint_width: int = 0  # numbers in a hint; 0 = no hints (Cosmos)
    hint_hidden: int = 512  # width of the two-layer network that reads hints
    layers: int = 4
    dim: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    hidden: int = 1024  # SwiGLU
    scene_channels: int = 0  # width of the network that reads latent and text where an action is due (scene.py); 0 = none
    scene_blocks: int = 2
    scene_digits: int = 0  # of a code
    scene_words: int = 0  # of the text vocabulary
    context_dim: int = 0  # width of a text context for cross-attention in every layer; 0 = none
    additive_positions: bool = False  # sin-cos positions added before every layer (published 5B and 13B)
    theta: float = 100.0  # base of the rotary frequencies; small grids want a small base
    yarn_shape: tuple[int, int] | None = None  # (latent frames, side) of the original grid (published 12B and 13B)
    eps: float = 1e-5

    def __post_init__(self):
        check_sizes(
            self, "model", vocab=(0, 1 << 24), out_vocab=(0, 1 << 24), hint_width=(0, 1 << 16), hint_hidden=(1, 1 << 16), layers=(0, 1024)
        )
        check_sizes(self, "model", dim=(1, 1 << 16), heads=(1, 1024), kv_heads=(1, 1024), head_dim=(2, 4096), hidden=(1, 1 << 20))
        check_sizes(self, "model", context_dim=(0, 1 << 16), scene_channels=(0, 8192), scene_blocks=(0, 64))
        check_sizes(self, "model", scene_digits=(0, 64), scene_words=(0, 1 << 24))
        attention = 2 * self.head_dim * (self.heads + self.kv_heads)
        hints = self.hint_hidden * (self.hint_width + self.dim)
        scene = 18 * self.scene_channels**2 * self.scene_blocks
        check_parameters("model", self.dim * (self.layers * (attention + 3 * self.hidden) + self.vocab + self.out_vocab) + hints + scene)
        if self.heads % self.kv_heads:
            raise BadConfig(f"model heads: got {self.heads}, expected a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise BadConfig(f"model head_dim: got {self.head_dim}, expected an even number")


class Decoding(StrEnum):
    """By which weights a CPU multiplies the few tokens of a decoding pass; prompts and training always take the model's own."""

    EXACT = "exact"
    HALF = "half"  # rounded to float16 where that does not hold them: half of float32's bytes are read


class Hints(nn.Module):
    """down(silu(up hint)): what is known of the next token, [B, L, F] -> [B, L, D]."""

    def __init__(self, width: int, hidden: int, dim: int):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, hints_BLF: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.up(hints_BLF)))


class WorldModel(nn.Module):
    """Decoder-only transformer over token ids with explicit (t, h, w) positions."""

    blocks: Sequence[Block]  # an nn.ModuleList
    frequencies: torch.Tensor

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        self.config = config
        self.decoding = Decoding.EXACT
        self.embedding = nn.Embedding(config.vocab, config.dim)
        self.hints = Hints(config.hint_width, config.hint_hidden, config.dim) if config.hint_width else None
        reads = config.scene_channels and config.scene_digits
        read = (config.scene_digits, config.scene_words, config.scene_channels, config.scene_blocks, config.dim)
        self.scene = SceneReader(*read) if reads else None
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config) for _ in range(config.layers)))
        self.norm = RMSNorm(config.dim, eps=config.eps)
        self.head = Linear(config.dim, config.out_vocab, bias=False)
        frequencies = rotary_frequencies(config.head_dim, config.theta, config.yarn_shape)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.reset_parameters()

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self.frequencies.dtype != torch.float32:  # in half precision angles would be off by whole turns
            frequencies = rotary_frequencies(self.config.head_dim, self.config.theta, self.config.yarn_shape)
            self.frequencies = frequencies.to(self.head.weight.device)
        return self

    def reset_parameters(self) -> None:
        """Small normal weights; what writes into the residual stream is scaled down by depth; the head starts at zero."""
        for name, p in self.named_parameters():
            if p.ndim < 2 or name.startswith("scene."):
                continue
            std = 0.02 if "embedding" in name else p.shape[1] ** -0.5
            if name.endswith(("out.weight", "down.weight")):
                std /= (2 * self.config.layers) ** 0.5
            nn.init.normal_(p, std=std)
        nn.init.zeros_(self.head.weight)

    def forward(
        self,
        ids_BL,
        positions_BL3,
        *,
        hints_BLF=None,
        scenes: Scenes | None = None,
        cache: KVCache | None = None,
        context=None,
        context_mask=None,
        targets_BL: torch.Tensor | None = None,
        weights_BL: torch.Tensor | None = None,
        z_loss: float = 0.0,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """int64 ids [B, L], int64 positions [B, L, 3] -> float32 logits [B, L, out_vocab] of each next token.

        targets_BL: instead, what `next_token_loss` makes of them, weights_BL and z_loss. It is made in here because weights that are
        sharded over ranks are whole inside `forward` alone.

        hints_BLF: float [B, L, F], what is known of each *next* token; required iff the model has hints.
        scenes: what the actions among the next tokens follow (`Sequence.scenes`); of a model with a scene reader.
        cache: earlier tokens; ids follow them, and the cache advances by L. context [B, S, C] with mask bool [B, S]: see
        CrossAttention; needed at the first call with a cache only.
        """
        found_BLD, missed = (None, None) if scenes is None or self.scene is None else self.scene(scenes)
        features_BLD = self.features(ids_BL, positions_BL3, hints_BLF, cache, context, context_mask, found_BLD)
        if targets_BL is not None and weights_BL is not None:
            loss, hit_BL = next_token_loss(features_BLD, self.head, targets_BL, weights_BL, z_loss)
            return loss if missed is None else loss + LOOK_WEIGHT * missed, hit_BL
        return self.head(features_BLD).float()

    def features(
        self, ids_BL, positions_BL3, hints_BLF=None, cache=None, context=None, context_mask=None, found_BLD: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Like `forward` up to the last norm: [B, L, D]. found_BLD: what the scene reader found, to be added to the embeddings."""
        if (self.hints is None) != (hints_BLF is None):
            raise BadPrompt(
                f"hints: got {'none' if hints_BLF is None else 'some'}, expected the opposite for this model; fix: use its Sequence"
            )
        x = self.embedding(ids_BL)
        if hints_BLF is not None and self.hints is not None:
            x = x + self.hints(hints_BLF.to(self.head.weight.dtype))
        if found_BLD is not None:
            x = x + found_BLD
        cos, sin = rotary_tables(positions_BL3, self.frequencies, x.dtype)
        added = added_positions(self.config, positions_BL3, x.dtype)
        for layer, block in enumerate(self.blocks):
            if added is not None:
                x = x + added
            x = block(x, cos, sin, layer, cache, context, context_mask)
        if cache is not None:
            cache.advance(ids_BL.shape[1])
        return self.norm(x)

    def read_context(self, cache: KVCache, context_BSC: torch.Tensor) -> None:
        """Puts the keys and values of a context [B, S, C] into a cache, for all tokens to come."""
        context_BSC = context_BSC.to(self.head.weight.device, self.head.weight.dtype)
        for layer, block in enumerate(self.blocks):
            assert block.cross_attention is not None, "a model without cross-attention reads no context"
            cache.context[layer] = block.cross_attention.keys_and_values(context_BSC)

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache for `rows` rows of up to `capacity` tokens, in the weights' dtype and place."""
        c, weight = self.config, self.head.weight
        return KVCache(c.layers, rows, capacity, c.kv_heads, c.head_dim, weight.dtype, weight.device)


def added_positions(config: WorldModelConfig, positions_BL3: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """[B, L, D], to be added before every layer, where the model has that. The published table is bf16 even in an fp32 model."""
    return sincos_positions(positions_BL3, config.dim).bfloat16().to(dtype) if config.additive_positions else None


def next_token_loss(
    hidden_BLD: torch.Tensor, head: nn.Linear, targets_BL: torch.Tensor, weights_BL: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted mean cross-entropy plus z_loss * logsumexp^2 (which keeps logits from drifting), bool [B, L]: is the target likeliest?)

    hidden_BLD: what `features` gives. The logits never exist as a whole. Rows of weight 0 are left out, on the CPU before any work.
    """
    hidden, targets, weights, weight_VD = hidden_BLD.flatten(0, 1), targets_BL.flatten(), weights_BL.flatten(), head.weight
    if torch.is_autocast_enabled(hidden.device.type):
        half = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight_VD = hidden.to(half), weight_VD.to(half)
    if not hidden.is_cpu:
        loss, hits = linear_cross_entropy(hidden, weight_VD, targets, weights_R=weights, z_loss=z_loss, return_hits=True)
        return loss, hits.view_as(targets_BL)
    kept = (weights > 0).nonzero().squeeze(1)
    loss, hits = linear_cross_entropy(hidden[kept], weight_VD, targets[kept], weights_R=weights[kept], z_loss=z_loss, return_hits=True)
    return loss, torch.zeros_like(targets_BL, dtype=torch.bool).view(-1).index_put((kept,), hits).view_as(targets_BL)
