"""Validation in the training loop: the averaged weights of a stage on its held-out split."""

import contextlib
import copy

import torch
from torch import nn

from wfm_ar.train.distributed import Ranks, whole
from wfm_ar.train.metrics import NoLog, Progress, RunLog
from wfm_ar.train.optimizer import WeightAverage
from wfm_ar.train.stage_protocol import Stage
from wfm_ar.train.watchdog import Interrupted, StopSignal, Watchdog


class Validation:
    """Looks at the averaged weights on the held-out split. A stop signal breaks it off; then it is due again."""

    def __init__(self, stage: Stage, average: WeightAverage, device: torch.device, ranks: Ranks, watchdog: Watchdog, stop: StopSignal):
        self.stage, self.average, self.device, self.ranks, self.watchdog, self.stop = stage, average, device, ranks, watchdog, stop
        self.copy = copy.deepcopy(average.model) if ranks.size > 1 else None  # made before the weights are sharded

    def run(self, step: int, log: RunLog | NoLog, progress: Progress) -> dict[str, float] | None:
        """What was found, the same on all ranks; None where it did not come to its end."""
        found = None
        with self.watchdog.section("validation", step):
            model = self._whole_model()
            with contextlib.suppress(Interrupted), self.stop.interrupting():
                found = self.stage.validate(model, self.device)
        if self.ranks.any(found is None) or found is None:
            return None
        numbers, pictures = found
        log.write(step, {f"val_{name}": value for name, value in numbers.items()}, pictures)
        progress.say(f"step {step} validation: " + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
        if warning := getattr(self.stage, "warning", ""):
            progress.say(f"step {step} WARNING: {warning}")
        return {name: float(self.ranks.sum(torch.tensor(value, dtype=torch.float64))) / self.ranks.size for name, value in numbers.items()}

    def _whole_model(self) -> nn.Module:
        """With several ranks every one looks at a whole copy: stages call more than `forward`, which alone gathers shards."""
        if self.copy is None:
            return self.average.model
        with torch.no_grad():
            sharded = self.average.model.state_dict()
            for name, tensor in self.copy.state_dict().items():
                tensor.copy_(whole(sharded[name]))
        return self.copy
