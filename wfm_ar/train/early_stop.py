"""Early stopping: a stage ends when its held-out number gets no better, and keeps its best weights.

Few clips are learnt by heart long before a long schedule ends, and what comes after that makes the network
worse on clips it has not seen. A stage names the number it is judged by (`judged_by`); after `patience`
validations in a row that are no better than the best one it ends. At its end, early or not, its averaged
weights are those of that best validation. All of this is in its checkpoints.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from wfm_ar.train.checkpoint import check_tensors
from wfm_ar.train.optimizer import WeightAverage
from wfm_ar.train.sharded_checkpoint import placed_like

GROUP = "best"  # of a checkpoint's tensors


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a stage ended before its last step."""

    step: int
    steps: int  # that it was to have
    name: str  # of the number it is judged by
    best: float
    best_step: int

    def told(self) -> str:
        best = f"held-out {self.name} was best after {self.best_step} ({self.best:.4g})"
        return f"ended after {self.step} of {self.steps} steps: {best}"


class EarlyStop:
    """Follows the validations of one stage. With patience 0 it never ends one, and keeps nothing."""

    def __init__(
        self,
        patience: int,
        steps: int,
        judged_by: tuple[str, int] | None,
        average: WeightAverage,
        history: dict[str, Any],
    ):
        """judged_by: (a number of the stage's validation, 1 where more is better, else -1); None: never ends early.

        history: the state of the checkpoint that is gone on from.
        """
        self.patience, self.steps = patience if judged_by else 0, steps
        self.judged_by, self.average = judged_by, average
        told = history.get("early_stop") or {}
        self.best, self.best_step, self.since = told.get("best"), told.get("best_step", 0), told.get("since", 0)
        self._weights: dict[str, torch.Tensor] | None = None

    def restore(self, weights: dict[str, torch.Tensor], where: str) -> None:
        """The weights of the best validation, from a checkpoint. Raises BadCheckpoint."""
        own = self.average.model.state_dict()
        check_tensors({name: (tuple(t.shape), t.dtype) for name, t in own.items()}, weights, f"{where}: {GROUP}")
        self._weights = {name: placed_like(tensor, own[name]) for name, tensor in weights.items()}

    def look(self, step: int, numbers: dict[str, float]) -> None:
        """A validation after `step` steps found these; one without the number that counts says nothing."""
        if not self.patience or self.judged_by is None or self.judged_by[0] not in numbers:
            return
        name, sign = self.judged_by
        value = numbers[name]
        if math.isfinite(value) and (self.best is None or sign * value > sign * self.best):
            self.best, self.best_step, self.since = value, step, 0
            self._weights = {key: tensor.detach().clone() for key, tensor in self.average.model.state_dict().items()}
        elif self.best is not None:
            self.since += 1

    @property
    def over(self) -> bool:
        """Whether the stage ends here."""
        return 0 < self.patience <= self.since

    def settle(self) -> None:
        """The averaged weights become those of the best validation: at a stage's end."""
        if self.patience and self._weights is not None:
            self.average.model.load_state_dict(self._weights)

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint carries of it."""
        return {GROUP: self._weights} if self.patience and self._weights is not None else {}

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps says of it."""
        if not self.patience:
            return {}
        ended = self.over and step < self.steps
        told = {"best": self.best, "best_step": self.best_step, "since": self.since}
        return {"early_stop": told | {"ended": asdict(self._ended(step)) if ended else None}}

    def told(self, step: int) -> str:
        """A line on a stage that ends here with earlier weights; "" where they are its last ones."""
        if not self.patience or self.judged_by is None or self.best is None or self.best_step == step:
            return ""
        if self.over and step < self.steps:
            return f"{self._ended(step).told()}, and not for {self.patience} validations since; those weights are kept"
        return f"held-out {self.judged_by[0]} was best after step {self.best_step} ({self.best:.4g}); those weights are kept"

    def _ended(self, step: int) -> Ended:
        assert self.judged_by is not None and self.best is not None, "only a judged stage ends early"
        return Ended(step=step, steps=self.steps, name=self.judged_by[0], best=self.best, best_step=self.best_step)


def ended_early(state: dict[str, Any]) -> Ended | None:
    """What a stage's last checkpoint says of its end; None where it had all its steps."""
    told = (state.get("early_stop") or {}).get("ended")
    return None if told is None else Ended(**told)
