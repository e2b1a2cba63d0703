"""Drawing and feeding tokens on the device alone, one captured CUDA graph for every token: draw, embed, all layers, logits.

The place in the plan and the step of the draws are device tensors, as the lengths of KernelStep are. On CUDA the graph is captured
at the first token of its kind and replayed; elsewhere (the interpreter in tests) the same body runs eagerly.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wfm_ar.world_model.kernel_step import KernelStep
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.steps import GuidedStep
from wfm_ar.world_model.transformer import WorldModel

Settings = dict[str, Any]


def captured_roll(model: WorldModel, cache: KVCache) -> "CapturedRoll | None":
    """Kernels and a captured graph on CUDA; elsewhere the model's own forward."""
    return CapturedRoll([KernelStep(model, cache)]) if cache.k.is_cuda else None


class CapturedRoll:
    """The rows of one step; or of two, with and without their condition, which are fed the same tokens and drawn from together."""

    def __init__(self, steps: Sequence[KernelStep], guidance: float = 1.0, hidden: int = 0) -> None:
        """guidance, hidden: as of `GuidedStep`, of two steps."""
        from wfm_kernels.sample.triton import sample

        self._cond, self._uncond, self._guidance = steps[0], steps[1] if len(steps) > 1 else None, guidance
        self.steps, self._sample = list(steps), sample
        self._fed = steps[0] if len(steps) == 1 else GuidedStep(steps[0], steps[1], guidance, hidden)
        rows, device = len(steps[0].cache.lengths_B), steps[0].cache.k.device
        self._ids_B1 = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._seed_B, self._row_B, self._draw_B = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self._planned_1, self._made_1 = torch.zeros(2, 1, dtype=torch.int64, device=device)  # of the plan fed, of the roll drawn
        self._out_Bn = torch.zeros(rows, 0, dtype=torch.int64, device=device)
        self._graphs: dict[tuple, torch.cuda.CUDAGraph] = {}
        self._buffers = [step.buffers for step in steps]  # that the graphs read

    def begin(self, logits_BV: Tensor) -> None:
        """The scores behind what the cache holds, float32 [B, V], where another pass than `step` made them."""
        self._cond.logits_BV.copy_(logits_BV)

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `DecodeStep.step`: float32 logits [B, V] behind the last token, guided if there is guidance; a `roll` begins there."""
        self._make_room(self.steps[0].longest_plan)
        return self._fed.step(ids_BT, first)

    def roll(self, keys: Sequence[tuple[int, int, int]], settings: Settings, ranges: Sequence[tuple[int, int]], first: int) -> Tensor:
        """Draw len(ranges) tokens, int64 [B, n] on the device, each from its range of ids; the first from the logits at hand.

        keys: (seed, row id, first step) a row, as `wfm_kernels.sample` takes them; settings: its other arguments. Token i is fed as
        token `first` + i of the plan; the last one is not fed.
        """
        seed_B, row_B, draw_B = torch.tensor(keys, dtype=torch.int64).T
        for state, value in ((self._seed_B, seed_B), (self._row_B, row_B), (self._draw_B, draw_B)):
            state.copy_(value)
        self._make_room(len(ranges))
        self._planned_1.fill_(first)
        self._made_1.fill_(0)
        for step in self.steps:
            step.cache.check_room(len(ranges) - 1)
        for allowed in ranges[:-1]:
            self._replay(settings, allowed) if self._ids_B1.is_cuda else self._body(settings, allowed)
            for step in self.steps:
                step.count(1)
        self._draw(settings, ranges[-1])
        return self._out_Bn[:, : len(ranges)].clone()

    def _make_room(self, tokens: int) -> None:
        """For so many tokens of a roll. Graphs that read or write other buffers than those there are now go."""
        buffers = [step.buffers for step in self.steps]
        if buffers != self._buffers or self._out_Bn.shape[1] < tokens:
            self._graphs.clear()
            self._buffers = buffers
        if self._out_Bn.shape[1] < tokens:
            self._out_Bn = torch.zeros(len(self._ids_B1), tokens, dtype=torch.int64, device=self._ids_B1.device)

    def _draw(self, settings: Settings, allowed: tuple[int, int]) -> None:
        start, stop = allowed
        if self._uncond is not None:
            settings = settings | {"unguided_BV": self._uncond.logits_BV[:, start:stop], "guidance": self._guidance}
        token_B, _ = self._sample(self._cond.logits_BV[:, start:stop], self._seed_B, self._row_B, self._draw_B, **settings)
        self._ids_B1.copy_((token_B + start).unsqueeze(1))
        self._out_Bn.scatter_(1, self._made_1.expand(len(token_B), 1), self._ids_B1)

    def _body(self, settings: Settings, allowed: tuple[int, int]) -> None:
        """One token: draw it, feed it, count. Device work alone."""
        self._draw(settings, allowed)
        for step in self.steps:
            step.feed(self._ids_B1, self._planned_1)
        for counter in (self._planned_1, self._made_1, self._draw_B):
            counter.add_(1)

    def _replay(self, settings: Settings, allowed: tuple[int, int]) -> None:
        key = (allowed, *settings.values())
        if key not in self._graphs:
            state = [self._ids_B1, self._out_Bn, self._planned_1, self._made_1, self._draw_B]
            state += [tensor for step in self.steps for tensor in (step.logits_BV, step.cache.lengths_B)]
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
