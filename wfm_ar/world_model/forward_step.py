"""A decoding step through `WorldModel.features`, for models of any kind: what every layer can do, it can do.

Promises: the logits of the forward; a cache is read up to its live tokens; the keys and values of a text context are made once.
Rows are batched in plain matrix products, so a weight is read once for all rows, and rounding - and with it, rarely, a token - may
differ with their number. It holds no weights of its own: for models too large to lie in memory twice.
"""

from copy import copy
from typing import Any

import torch
from torch import Tensor

from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.scene import Scenes
from wfm_ar.world_model.transformer import WorldModel


class ForwardStep:
    """Passes over the rows of `cache`: `plan`, then `step`, as `DecodeStep` has them."""

    apart = False  # tokens fed together may have other bits than alone, so none is guessed

    def __init__(self, model: WorldModel, cache: KVCache) -> None:
        self.model = model
        self._parts: list[tuple[KVCache, Any, Tensor | None, Scenes | None]] = [(cache, None, None, None)]  # positions come with a plan

    @staticmethod
    def beside(*steps: "ForwardStep") -> "ForwardStep":
        """One step over the rows of all, in order, with what each has planned."""
        both = copy(steps[0])
        both._parts = [part for step in steps for part in step._parts]
        return both

    def plan(self, positions_BL3: Tensor, hints_BLF: Tensor | None, scenes: Scenes | None = None) -> None:
        """Positions, hints and scenes (as `WorldModel.forward` takes them) of the coming L tokens."""
        device = self.model.head.weight.device
        hints_BLF, scenes = hints_BLF if hints_BLF is None else hints_BLF.to(device), scenes if scenes is None else scenes.to(device)
        self._parts = [(self._parts[0][0], positions_BL3.to(device), hints_BLF, scenes)]

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """Tokens first .. first + T - 1 of the plan, int64 [B, T] -> float32 logits [B, V] of the token behind the last one.

        Their keys and values go into the cache. Raises BadPrompt when it is full.
        """
        part, logits = slice(first, first + ids_BT.shape[1]), []
        rows = [len(cache.lengths_B) for cache, *_ in self._parts]
        for ids, (cache, positions_BL3, hints_BLF, scenes) in zip(ids_BT.split(rows), self._parts, strict=True):
            hints = None if hints_BLF is None else hints_BLF[:, part]
            found = None
            if scenes is not None and self.model.scene is not None:
                found, _ = self.model.scene(scenes._replace(at_BL=scenes.at_BL[:, part]))
            hidden_BTD = self.model.features(ids, positions_BL3[:, part], hints, cache, found_BLD=found)
            logits.append(self.model.head(hidden_BTD[:, -1]).float())
        return torch.cat(logits) if len(logits) > 1 else logits[0]
