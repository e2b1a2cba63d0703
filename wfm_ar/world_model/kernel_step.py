"""Decoding through the kernels' launchers: the same work as `DecodeStep`, with nothing read back to the host between two tokens.

Lengths and positions are device tensors, so that one captured CUDA graph (captured_roll.py) can feed every token. Matrix products
are the library's, so on a GPU the rounding of a row may change with the number of rows; the ops keep a row's bits. A prompt goes
through the library's attention: see kernels/README.md.
Models that attend to a text or add positions before every layer (the published 5B and 13B) go the same way, behind a prompt that
`WorldModel.features` has put into the cache, the keys and values of the text with it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from wfm_kernels import FULL

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.world_model.attention import AT_ONCE
from wfm_ar.world_model.block import Block
from wfm_ar.world_model.decode import Layer, run_layers
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.rotary import axis_sizes, position_tables
from wfm_ar.world_model.scene import Scenes
from wfm_ar.world_model.transformer import WorldModel, added_positions


class KernelStep:
    """Passes over the rows of `cache`: `plan`, then `step` for its tokens in order, or `feed` for one at a time on the device alone."""

    def __init__(self, model: WorldModel, cache: KVCache) -> None:
        """Raises BadConfig for a model with cross-attention whose cache holds no text yet."""
        from wfm_kernels.attention.triton import attention
        from wfm_kernels.qk_norm_rope_cache.triton import qk_norm_rope_cache
        from wfm_kernels.rms_norm.triton import rms_norm
        from wfm_kernels.shared_prefix.triton import attention_shared_prefix
        from wfm_kernels.swiglu.triton import swiglu

        config = model.config
        if config.context_dim and len(cache.context) < config.layers:
            raise BadConfig("decode step: got a cache without its text, expected one behind a prompt; fix: begin with the model's forward")
        self._attention: Any
        self._attention, self._shared, self._norm_rope_cache = attention, attention_shared_prefix, qk_norm_rope_cache
        self._rms_norm, self._swiglu = rms_norm, swiglu
        self.model, self.cache = model, cache
        self._axes, rows, device = axis_sizes(config.head_dim), len(cache.lengths_B), cache.k.device
        past = 0 if cache.prefix is None else cache.prefix[0].shape[2]
        self._cos_PF, self._sin_PF = position_tables(past + cache.capacity, model.frequencies)
        self.logits_BV = torch.zeros(rows, config.out_vocab, dtype=torch.float32, device=device)  # behind what the cache holds
        self._counters = torch.zeros(rows * config.heads * AT_ONCE, dtype=torch.int32, device=device)  # of attention's launches, one by one
        self._positions_BL3 = self._hints_BLD = self._added_BLD = None
        self.buffers = 0  # how often a longer plan has had new ones
        self._context = {layer: tuple(t.expand(rows, -1, -1, -1) for t in pair) for layer, pair in cache.context.items()}
        self._context_B = {size: torch.full((rows,), size, device=device) for size in {k.shape[2] for k, _ in self._context.values()}}
        self._layers = [_layer(block) for block in model.blocks]

    @staticmethod
    def beside(*steps: "KernelStep") -> "SideBySide":
        """One step over the rows of all, in order, with what each has planned."""
        return SideBySide(steps)

    def plan(self, positions_BL3: Tensor, hints_BLF: Tensor | None, scenes: Scenes | None = None) -> None:
        """As `DecodeStep.plan`; positions on the host. The buffers that captured graphs read grow with the longest plan, and stay."""
        highest, known, length = int(positions_BL3.max()), len(self._cos_PF), positions_BL3.shape[1]
        if highest >= known:
            raise BadPrompt(f"position: got {highest}, expected below {known}, the cache's tokens; fix: a larger cache")
        device, dtype = self.cache.k.device, self.model.head.weight.dtype
        model_hints = self.model.hints
        hints_BLD = None if hints_BLF is None or model_hints is None else model_hints(hints_BLF.to(device, dtype))
        if hints_BLD is not None and scenes is not None and self.model.scene is not None:
            hints_BLD = hints_BLD + self.model.scene(scenes.to(device))[0]
        added_BLD = added_positions(self.model.config, positions_BL3, dtype)
        positions_BL3 = positions_BL3.clamp_min(0)  # below 0 is no position, which turns by nothing
        if self._positions_BL3 is None or self._positions_BL3.shape[1] < length:
            self._positions_BL3 = positions_BL3.to(device).clone(memory_format=torch.contiguous_format)
            self._hints_BLD = None if hints_BLD is None else hints_BLD.clone()
            self._added_BLD = None if added_BLD is None else added_BLD.to(device)
            self.buffers += 1
            return
        self._positions_BL3[:, :length].copy_(positions_BL3)
        for buffer, coming in ((self._hints_BLD, hints_BLD), (self._added_BLD, added_BLD)):
            if coming is not None and buffer is not None:
                buffer[:, :length].copy_(coming)

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `DecodeStep.step`: float32 logits [B, V] behind the last token, which are also `logits_BV`."""
        count, done = ids_BT.shape[1], 0
        while done < count:
            size = count - done if self._prefills else min(AT_ONCE, count - done)
            part, place = slice(done, done + size), slice(first + done, first + done + size)
            self.cache.check_room(size)
            positions_BL3, *beside = self._planned
            hints_BTD, added_BTD = (None if t is None else t[:, place] for t in beside)
            self.logits_BV.copy_(self._pass(ids_BT[:, part], positions_BL3[:, place].contiguous(), hints_BTD, added_BTD))
            self.count(size)
            done += size
        return self.logits_BV

    def feed(self, ids_B1: Tensor, place_1: Tensor) -> None:
        """One token a row, int64 [B, 1], as token `place_1` (int64 [1] on the device) of the plan. Device work alone: `count` is the
        host's part of it."""
        positions_BL3, *beside = self._planned
        hints_B1D, added_B1D = (None if t is None else t.index_select(1, place_1) for t in beside)
        self.logits_BV.copy_(self._pass(ids_B1, positions_BL3.index_select(1, place_1), hints_B1D, added_B1D))

    def count(self, tokens: int) -> None:
        """The host's knowledge of `tokens` more in the cache of every row."""
        self.cache.longest, self.cache.shortest = self.cache.longest + tokens, self.cache.shortest + tokens

    @property
    def longest_plan(self) -> int:
        """Tokens of the longest plan so far."""
        return 0 if self._positions_BL3 is None else self._positions_BL3.shape[1]

    @property
    def _planned(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        assert self._positions_BL3 is not None, "planned before it is fed"
        return self._positions_BL3, self._hints_BLD, self._added_BLD

    @property
    def _prefills(self) -> bool:
        return self.cache.longest == 0 and self.cache.prefix is None

    def _pass(self, ids_BT: Tensor, positions_BT3: Tensor, hints_BTD: Tensor | None, added_BTD: Tensor | None) -> Tensor:
        """All layers over T tokens a row -> logits behind the last. Moves the device's lengths; the host's are the caller's."""
        x = F.embedding(ids_BT, self.model.embedding.weight)
        for known_BTD in (hints_BTD, added_BTD):
            x = x if known_BTD is None else x + known_BTD
        ops = _CudaOps(self, positions_BT3)
        normed_BTD = run_layers(x, self._layers, self.model.norm.weight, ops, added_BTD)
        self.cache.lengths_B.add_(ids_BT.shape[1])
        return self.model.head(normed_BTD[:, -1]).float()


def _layer(block: Block) -> Layer:
    own, cross = block.attention, block.cross_attention
    return Layer(
        attention_norm=block.attention_norm.weight,
        qkv=own.qkv,
        head_norm=(own.q_norm.weight, own.k_norm.weight),
        out=own.out,
        cross_norm=None if block.cross_norm is None else block.cross_norm.weight,
        cross=cross,
        ffn_norm=block.ffn_norm.weight,
        gate_up=block.ffn.gate_up,
        down=block.ffn.down,
    )


class _CudaOps:
    """The ops of one pass of a step: the kernels' launchers, over tensors [B, T, D]."""

    def __init__(self, step: KernelStep, positions_BT3: Tensor) -> None:
        self._step, self._positions_BT3, self._eps = step, positions_BT3, step.model.config.eps
        count = positions_BT3.shape[1]
        self._prefills = step._prefills and count > AT_ONCE
        self._slots_BT = step.cache.lengths_B[:, None] + torch.arange(count, device=positions_BT3.device)
        self._lengths_B = step.cache.lengths_B + count

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._step._rms_norm(x, weight, eps=self._eps)

    def add_norm(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._step._rms_norm(y, weight, residual=x, eps=self._eps)

    def cross(self, index: int, layer: Layer, normed: Tensor) -> Tensor:
        step, own = self._step, layer.cross
        k, v = step._context[index]
        q = step._rms_norm(own.q(normed).unflatten(-1, (own.heads, -1)), own.q_norm.weight, eps=self._eps)
        lengths_B = step._context_B[k.shape[2]]
        y = step._attention(q.transpose(1, 2), k, v, lengths_B, max_length=k.shape[2], mask=FULL, counters=step._counters)
        return own.out(y.transpose(1, 2).flatten(2))

    def glu(self, gate_up: Tensor) -> Tensor:
        return self._step._swiglu(*gate_up.chunk(2, -1))

    def attend(self, index: int, layer: Layer, qkv: Tensor) -> Tensor:
        step, config, cache, (rows, count) = self._step, self._step.model.config, self._step.cache, qkv.shape[:2]
        k, v = cache.k[index], cache.v[index]
        q_BNTK = step._norm_rope_cache(
            qkv,
            layer.head_norm[0],
            layer.head_norm[1],
            step._cos_PF,
            step._sin_PF,
            self._positions_BT3,
            self._slots_BT,
            k,
            v,
            heads=config.heads,
            axes=step._axes,
            eps=self._eps,
        )
        if self._prefills:
            group = config.heads // config.kv_heads
            now_k, now_v = (t[:, :, :count].repeat_interleave(group, 1) for t in (k, v))
            y = F.scaled_dot_product_attention(q_BNTK, now_k, now_v, is_causal=True)
        elif cache.prefix is None:
            y = step._attention(q_BNTK, k, v, self._lengths_B, max_length=cache.capacity, counters=step._counters)
        else:
            (past_k, past_v), how = cache.prefix, {"prefix_length_1": cache.prefix_length_1, "counters": step._counters}
            y = step._shared(q_BNTK, past_k[index], past_v[index], k, v, self._lengths_B, **how)
        return y.transpose(1, 2).reshape(rows, count, -1)


class SideBySide:
    """Steps of several caches as one: `step` gives the rows of all, in order."""

    def __init__(self, steps: tuple[KernelStep, ...]) -> None:
        self._steps = steps

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `KernelStep.step`."""
        parts = ids_BT.split([len(step.cache.lengths_B) for step in self._steps])
        return torch.cat([step.step(ids, first) for step, ids in zip(self._steps, parts, strict=True)])
