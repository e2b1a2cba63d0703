"""Steps that are not finite: skipped, counted, and written down with the clips that were in them.

Every skipped step is a line of `bad_steps.jsonl` in the run folder: the step, what was not finite, the batch's clip ids.
"""

import json
from pathlib import Path

import torch
from torch import nn

from wfm_ar.errors import WfmError
from wfm_ar.train.distributed import Ranks, local
from wfm_ar.train.metrics import keep_lines
from wfm_ar.train.tensor_file import first_not_finite

FILE = "bad_steps.jsonl"
LARGEST = 1e18  # of a gradient's norm: AdamW squares it in float32, which ends at 3e38


class Guard:
    """Decides whether a step's update may be applied. `limit`: so many bad steps in a row end the run."""

    def __init__(self, run: Path, limit: int, start: int, state: dict, ranks: Ranks):
        self.run, self.limit = run, limit
        self.file = run / (FILE if ranks.first else FILE.replace(".", f".rank-{ranks.rank}."))  # each has other clips
        self.total, self.in_a_row = state.get("bad_steps", 0), state.get("bad_in_a_row", 0)
        keep_lines(self.file, start - 1)

    def state(self) -> dict:
        """What a checkpoint carries."""
        return {"bad_steps": self.total, "bad_in_a_row": self.in_a_row}

    def passes(self, step: int, loss: torch.Tensor, norm: torch.Tensor, clips: list[str]) -> str | None:
        """None where loss and gradient norm are finite; else what is not, and the step is counted and written down."""
        if torch.isfinite(loss) and norm < LARGEST:  # NaN is not smaller
            self.in_a_row = 0
            return None
        what = "gradient" if torch.isfinite(loss) else "loss"
        self._note(step, what, clips)
        return what

    def check_weights(self, step: int, model: nn.Module, clips: list[str], ranks: Ranks) -> None:
        """Raise WfmError where a weight is not finite: no later step can mend that, the last checkpoint can."""
        bad = first_not_finite({name: local(tensor) for name, tensor in model.state_dict().items()})
        if ranks.any(bad is not None):
            self._note(step, f"weights {bad or 'of another rank'}", clips)
            raise WfmError(
                f"{self.run}: step {step}: weights ({bad or 'of another rank'}) are not finite; nothing was saved since the last "
                f"checkpoint; fix: run again with resume=auto, which goes on from there; clips {', '.join(clips[:4])}, see {self.file}"
            )

    def stop_if_hopeless(self, clips: list[str]) -> None:
        """Raise WfmError after `limit` bad steps in a row."""
        if self.in_a_row >= self.limit:
            raise WfmError(
                f"{self.run}: {self.in_a_row} steps in a row were not finite; the last checkpoint is whole; fix: lower optimizer.lr or "
                f"look at the data: clips {', '.join(clips[:4])}, all in {self.file}"
            )

    def _note(self, step: int, what: str, clips: list[str]) -> None:
        self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
        with open(self.file, "a") as file:
            file.write(json.dumps({"step": step, "what": what, "clips": clips}) + "\n")


class Buffers:
    """The float buffers of a model (running statistics), which a forward pass changes: kept, so that a bad step can be undone.

    With several micro-batches each starts from the step's own statistics and the results are averaged, so that it does not
    matter whether one process sees them one after the other or several ranks at once.
    """

    def __init__(self, model: nn.Module):
        self.live = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.begin()

    def begin(self) -> None:
        """A new step."""
        self.kept = [buffer.clone() for buffer in self.live]
        self.changes = [torch.zeros_like(buffer) for buffer in self.live]  # so that a constant buffer stays what it is to the bit

    def after_micro_batch(self, count: int) -> None:
        """Fold what one of `count` micro-batches made of them into the mean, and go back to the beginning."""
        for live, kept, change in zip(self.live, self.kept, self.changes, strict=True):
            change.add_(live - kept, alpha=1 / count)
            live.copy_(kept)

    def finish(self, ranks: Ranks) -> None:
        """The means over all micro-batches of all ranks are the new buffers."""
        for live, change in zip(self.live, self.changes, strict=True):
            live.add_(ranks.sum(change), alpha=1 / ranks.size)

    def undo(self) -> None:
        """As if the step had not been."""
        for live, kept in zip(self.live, self.kept, strict=True):
            live.copy_(kept)
