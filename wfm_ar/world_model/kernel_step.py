"""Decoding through the kernels' launchers: the same work as `DecodeStep`, with nothing read back to the host between two tokens.

Lengths, positions, the place in the plan and the step of the draws are device tensors, so one captured CUDA graph serves every
token: draw, embed, all layers, logits. On CUDA `roll` captures that graph at its first token and replays it; elsewhere (the
interpreter in tests) it runs the same body eagerly. Matrix products are the library's, so on a GPU the rounding of a row may
change with the number of rows; the ops keep a row's bits. A prompt goes through the library's attention: see kernels/README.md.
Models that attend to a text or add positions before every layer (the published 5B and 13B) go the same way, behind a prompt that
`WorldModel.features` has put into the cache, the keys and values of the text with it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from wfm_kernels import FULL
from wfm_kernels.sample.reference import guided_BV

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.world_model.attention import AT_ONCE, CrossAttention
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.rotary import axis_sizes, position_tables
from wfm_ar.world_model.transformer import WorldModel, added_positions

Settings = dict[str, float | int | None]


def kernels_for(model: WorldModel, cache: KVCache) -> "KernelStep | None":
    """Kernels and a captured graph on CUDA; elsewhere the model's own forward."""
    return KernelStep(model, cache) if cache.k.is_cuda else None


class KernelStep:
    """Passes over the rows of `cache`: `plan`, then `step` or `roll` for its tokens in order; with `guide`, of two caches at once."""

    def __init__(self, model: WorldModel, cache: KVCache) -> None:
        """Raises BadConfig for a model with cross-attention whose cache holds no text yet."""
        from wfm_kernels.attention.triton import attention
        from wfm_kernels.qk_norm_rope_cache.triton import qk_norm_rope_cache
        from wfm_kernels.rms_norm.triton import rms_norm
        from wfm_kernels.sample.triton import sample
        from wfm_kernels.shared_prefix.triton import attention_shared_prefix
        from wfm_kernels.swiglu.triton import swiglu

        config = model.config
        if config.context_dim and len(cache.context) < config.layers:
            raise BadConfig("decode step: got a cache without its text, expected one behind a prompt; fix: begin with the model's forward")
        self._attention, self._shared, self._norm_rope_cache = attention, attention_shared_prefix, qk_norm_rope_cache
        self._rms_norm, self._sample, self._swiglu = rms_norm, sample, swiglu
        self.model, self.cache = model, cache
        self._axes, rows, device = axis_sizes(config.head_dim), len(cache.lengths_B), cache.k.device
        past = 0 if cache.prefix is None else cache.prefix[0].shape[2]
        self._cos_PF, self._sin_PF = position_tables(past + cache.capacity, model.frequencies)
        self._ids_B1 = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._logits_BV = torch.zeros(rows, config.out_vocab, dtype=torch.float32, device=device)
        self._seed_B, self._row_B, self._draw_B = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._counters = torch.zeros(rows * config.heads * AT_ONCE, dtype=torch.int32, device=device)  # of attention's launches, one by one
        self._planned_1, self._made_1 = torch.zeros(2, 1, dtype=torch.int64, device=device)  # of the plan fed, of the roll drawn
        self._positions_BL3 = self._hints_BLD = self._added_BLD = self._out_Bn = None
        self._context = {layer: tuple(t.expand(rows, -1, -1, -1) for t in pair) for layer, pair in cache.context.items()}
        self._context_B = {size: torch.full((rows,), size, device=device) for size in {k.shape[2] for k, _ in self._context.values()}}
        self._graphs: dict[tuple, torch.cuda.CUDAGraph] = {}
        self._untold, self._guidance, self._hidden = None, 1.0, 0

    def guide(self, untold: "KernelStep", guidance: float, hidden: int = 0) -> None:
        """From now on feed `untold` (the same rows without their texts or actions, planned on its own) the same tokens, and draw from
        untold + guidance * (told - untold): classifier-free guidance, see `wfm_ar.rollout.engine`. `hidden` tokens behind the first
        of a plan are kept from it."""
        self._untold, self._guidance, self._hidden = untold, guidance, hidden

    def begin(self, logits_BV: Tensor) -> None:
        """The scores behind what the cache holds, float32 [B, V], where another pass than `step` made them."""
        self._logits_BV.copy_(logits_BV)

    def plan(self, positions_BL3: Tensor, hints_BLF: Tensor | None) -> None:
        """As `DecodeStep.plan`; positions on the host. The buffers that captured graphs read grow with the longest plan, and stay."""
        highest, known, length = int(positions_BL3.max()), len(self._cos_PF), positions_BL3.shape[1]
        if highest >= known:
            raise BadPrompt(f"position: got {highest}, expected below {known}, the cache's tokens; fix: a larger cache")
        device, dtype = self.cache.k.device, self.model.head.weight.dtype
        hints_BLD = None if hints_BLF is None else self.model.hints(hints_BLF.to(device, dtype))
        added_BLD = added_positions(self.model.config, positions_BL3, dtype)
        positions_BL3 = positions_BL3.clamp_min(0)  # below 0 is no position, which turns by nothing
        if self._positions_BL3 is None or self._positions_BL3.shape[1] < length:
            self._graphs.clear()
            self._positions_BL3 = positions_BL3.to(device).clone(memory_format=torch.contiguous_format)
            self._hints_BLD = None if hints_BLD is None else hints_BLD.clone()
            self._added_BLD = None if added_BLD is None else added_BLD.to(device)
            self._out_Bn = torch.zeros(positions_BL3.shape[:2], dtype=torch.int64, device=device)
            return
        self._positions_BL3[:, :length].copy_(positions_BL3)
        for buffer, coming in ((self._hints_BLD, hints_BLD), (self._added_BLD, added_BLD)):
            if coming is not None:
                buffer[:, :length].copy_(coming)

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `DecodeStep.step`: float32 logits [B, V] behind the last token, guided if there is guidance; a `roll` begins there."""
        count, done = ids_BT.shape[1], 0
        while done < count:
            size = count - done if self._prefills else min(AT_ONCE, count - done)
            part, place = slice(done, done + size), slice(first + done, first + done + size)
            self.cache.check_room(size)
            positions_BT3, hints_BTD, added_BTD = (None if t is None else t[:, place] for t in self._planned)
            self._logits_BV.copy_(self._pass(ids_BT[:, part], positions_BT3.contiguous(), hints_BTD, added_BTD))
            self.cache.longest, self.cache.shortest = self.cache.longest + size, self.cache.shortest + size
            done += size
        if self._untold is None:
            return self._logits_BV
        untold_BT = ids_BT[:, :1] if self._hidden and first == 0 else ids_BT
        return guided_BV(self._logits_BV, self._untold.step(untold_BT, first), self._guidance)

    def roll(self, keys: Sequence[tuple[int, int, int]], settings: Settings, ranges: Sequence[tuple[int, int]], first: int) -> Tensor:
        """Draw len(ranges) tokens, int64 [B, n] on the device, each from its range of ids; the first from the logits at hand.

        keys: (seed, row id, first step) a row, as `wfm_kernels.sample` takes them; settings: its other arguments. Token i is fed as
        token `first` + i of the plan; the last one is not fed.
        """
        seed_B, row_B, draw_B = torch.tensor(keys, dtype=torch.int64).T
        for state, value in ((self._seed_B, seed_B), (self._row_B, row_B), (self._draw_B, draw_B)):
            state.copy_(value)
        self._planned_1.fill_(first)
        self._made_1.fill_(0)
        caches = [step.cache for step in self._steps]
        for cache in caches:
            cache.check_room(len(ranges) - 1)
        for allowed in ranges[:-1]:
            self._replay(settings, allowed) if self.cache.k.is_cuda else self._body(settings, allowed)
            for cache in caches:
                cache.longest, cache.shortest = cache.longest + 1, cache.shortest + 1
        self._draw(settings, ranges[-1])
        return self._out_Bn[:, : len(ranges)].clone()

    @property
    def _steps(self) -> list["KernelStep"]:
        return [self] if self._untold is None else [self, self._untold]

    @property
    def _planned(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self._positions_BL3, self._hints_BLD, self._added_BLD

    @property
    def _prefills(self) -> bool:
        return self.cache.longest == 0 and self.cache.prefix is None

    def _draw(self, settings: Settings, allowed: tuple[int, int]) -> None:
        start, stop = allowed
        if self._untold is not None:
            settings = settings | {"unguided_BV": self._untold._logits_BV[:, start:stop], "guidance": self._guidance}
        token_B, _ = self._sample(self._logits_BV[:, start:stop], self._seed_B, self._row_B, self._draw_B, **settings)
        self._ids_B1.copy_((token_B + start).unsqueeze(1))
        self._out_Bn.scatter_(1, self._made_1.expand(len(token_B), 1), self._ids_B1)

    def _body(self, settings: Settings, allowed: tuple[int, int]) -> None:
        """One token: draw it, feed it, count. Device work alone."""
        self._draw(settings, allowed)
        for step in self._steps:
            now = (None if t is None else t.index_select(1, self._planned_1) for t in step._planned)
            step._logits_BV.copy_(step._pass(self._ids_B1, *now))
        for counter in (self._planned_1, self._made_1, self._draw_B):
            counter.add_(1)

    def _replay(self, settings: Settings, allowed: tuple[int, int]) -> None:
        key = (allowed, *settings.values(), *(step._positions_BL3.data_ptr() for step in self._steps))  # a longer plan has other buffers
        if key not in self._graphs:
            state = [self._ids_B1, self._out_Bn, self._planned_1, self._made_1, self._draw_B]
            state += [tensor for step in self._steps for tensor in (step._logits_BV, step.cache.lengths_B)]
            before = [tensor.clone() for tensor in state]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._body(settings, allowed)  # compiles; what it wrote into the cache is written again
            torch.cuda.current_stream().wait_stream(stream)
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._body(settings, allowed)
            self._graphs[key] = graph
        self._graphs[key].replay()

    def _pass(self, ids_BT: Tensor, positions_BT3: Tensor, hints_BTD: Tensor | None, added_BTD: Tensor | None) -> Tensor:
        """All layers over T tokens a row -> logits behind the last. Moves the device's lengths; the host's are the caller's."""
        cache, (rows, count), config = self.cache, ids_BT.shape, self.model.config
        prefills = self._prefills and count > AT_ONCE
        slots_BT = cache.lengths_B[:, None] + torch.arange(count, device=ids_BT.device)
        lengths_B = cache.lengths_B + count
        x = F.embedding(ids_BT, self.model.embedding.weight)
        for known_BTD in (hints_BTD, added_BTD):
            x = x if known_BTD is None else x + known_BTD
        blocks, eps = self.model.blocks, config.eps
        normed = self._rms_norm(x, blocks[0].attention_norm.weight, eps=eps)
        for layer, block in enumerate(blocks):
            own, k, v = block.attention, cache.k[layer], cache.v[layer]
            q_BNTK = self._norm_rope_cache(
                own.qkv(normed), own.q_norm.weight, own.k_norm.weight, self._cos_PF, self._sin_PF, positions_BT3, slots_BT, k, v,
                heads=config.heads, axes=self._axes, eps=eps,
            )  # fmt: skip
            if prefills:
                group = config.heads // config.kv_heads
                now = (t[:, :, :count].repeat_interleave(group, 1) for t in (k, v))
                y = F.scaled_dot_product_attention(q_BNTK, *now, is_causal=True)
            elif cache.prefix is None:
                y = self._attention(q_BNTK, k, v, lengths_B, max_length=cache.capacity, counters=self._counters)
            else:
                past_k, past_v = (t[layer] for t in cache.prefix)
                y = self._shared(
                    q_BNTK, past_k, past_v, k, v, lengths_B, prefix_length_1=cache.prefix_length_1, counters=self._counters
                )  # fmt: skip
            y = own.out(y.transpose(1, 2).reshape(rows, count, -1))
            if block.cross_attention is not None:
                normed, x = self._rms_norm(y, block.cross_norm.weight, residual=x, eps=eps)
                y = self._read_context(block.cross_attention, layer, normed)
            normed, x = self._rms_norm(y, block.ffn_norm.weight, residual=x, eps=eps)
            y = block.ffn.down(self._swiglu(*block.ffn.gate_up(normed).chunk(2, -1)))
            following = self.model.norm
            if layer + 1 < len(blocks):
                following = blocks[layer + 1].attention_norm
                y = y if added_BTD is None else y + added_BTD
            normed, x = self._rms_norm(y, following.weight, residual=x, eps=eps)
        cache.lengths_B.add_(count)
        return self.model.head(normed[:, -1]).float()

    def _read_context(self, cross: CrossAttention, layer: int, x_BTD: Tensor) -> Tensor:
        """What the tokens see of their row's text."""
        k, v = self._context[layer]
        q = self._rms_norm(cross.q(x_BTD).unflatten(-1, (cross.heads, -1)), cross.q_norm.weight, eps=self.model.config.eps)
        lengths_B = self._context_B[k.shape[2]]
        y = self._attention(q.transpose(1, 2), k, v, lengths_B, max_length=k.shape[2], mask=FULL, counters=self._counters)
        return cross.out(y.transpose(1, 2).flatten(2))
