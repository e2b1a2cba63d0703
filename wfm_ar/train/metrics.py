"""What a run says while it goes: log.jsonl, TensorBoard and what is beside it, PNG pictures, and a progress bar or plain lines."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from wfm_ar.data.files import as_wfm_error, write_atomic
from wfm_ar.progress_bar import ProgressBar
from wfm_ar.train.time_left import TimeLeft
from wfm_ar.train.wandb_log import WandbLog
from wfm_ar.train.whole_run import WholeRun


def keep_lines(path: Path, last: int, drop: tuple[int, str] | None = None) -> None:
    """Drop the lines of a JSONL file whose `step` is past `last` (a resumed run writes them again), and one torn by a crash.

    drop: (step, prefix): also the lines of that step with a key of that prefix.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
            again = drop and row["step"] == drop[0] and any(key.startswith(drop[1]) for key in row)
            if row["step"] <= last and not again:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_atomic(path, "".join(kept).encode(), overwrite=True)


class RunLog:
    """Appends numbers to log.jsonl and TensorBoard, and pictures to TensorBoard and `pictures/<name>.png`."""

    def __init__(self, run: Path, start: int, again: bool = False, beside: WandbLog | None = None):
        """`start`: the step that a resumed run goes on at; again: its validation is due once more; beside: gets all of it too."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed by training only

        self.run, self.path, self.beside = run, run / "log.jsonl", beside
        keep_lines(self.path, start, drop=(start, "val_") if again else None)
        self.file = open(self.path, "a", buffering=1)  # noqa: SIM115 - held for the life of the run
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start or None)

    def write(self, step: int, numbers: dict[str, float], pictures: dict[str, torch.Tensor] | None = None) -> None:
        """numbers -> one line and one scalar each; pictures uint8 [H, W, 3] -> image panels and PNG files."""
        from wfm_ar.data.video import write_image

        try:
            self.file.write(json.dumps({"step": step} | {k: float(v) for k, v in numbers.items()}) + "\n")
        except OSError as error:
            raise as_wfm_error(error, self.path) from error
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
        for name, picture in (pictures or {}).items():
            self.board.add_image(name, picture, step, dataformats="HWC")
            (self.run / "pictures").mkdir(exist_ok=True)
            write_image(self.run / "pictures" / f"{name}.png", picture.numpy(), overwrite=True)
        if self.beside is not None:
            self.beside.write(step, numbers, pictures or {})

    def sync(self) -> None:
        """What was written is on the disk: before a checkpoint, so that the history is never older than the weights."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise as_wfm_error(error, self.path) from error

    def close(self) -> None:
        self.file.close()
        self.board.close()
        if self.beside is not None:
            self.beside.close()


class NoLog:
    """The log of a rank that keeps none."""

    def write(self, step: int, numbers: dict[str, float], pictures: dict[str, torch.Tensor] | None = None) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class Progress:
    """A live bar on a terminal, a line every ten seconds elsewhere: rate, loss, time left."""

    def __init__(
        self,
        name: str,
        start: int,
        steps: int,
        shown: bool = True,
        time_left: TimeLeft | None = None,
        whole: WholeRun | None = None,
    ):
        """time_left: where steps are not all alike; None: it follows from their mean. whole: the bar is that of a whole run, of which
        this is a part."""
        self.shown, self.name, self.start, self.steps, self.whole = shown, name, start, steps, whole
        self.time_left = time_left or TimeLeft(start, steps)
        self.began = self.spoke = time.monotonic()
        self.bar = None
        if shown and sys.stderr.isatty():
            from rich.progress import BarColumn, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"))
            self.bar = ProgressBar(*columns, TextColumn("{task.fields[left]} {task.fields[numbers]}"))
            done: Any = start if whole is None else 0.0  # a bar takes shares too, though its types do not say so
            total = steps if whole is None else 1.0
            self.task = self.bar.add_task(name, total=total, completed=done, at=f"{start}/{steps}", left="", numbers="")
            self.bar.start()

    def update(self, done: int, numbers: dict[str, float]) -> None:
        """Show the newest numbers after `done` steps."""
        if not self.shown:
            return
        text = " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        seconds = self.time_left.seconds(done)
        left = f"{seconds / 60:.1f} min left"
        if self.whole is not None:
            left += f" ({self.whole.told(self.name, seconds)})"
        if self.bar:
            completed = done if self.whole is None else self.whole.share(self.name, seconds)
            self.bar.update(self.task, completed=completed, at=f"{done}/{self.steps}", left=left, numbers=text)
        elif time.monotonic() - self.spoke > 10 or done == self.steps:
            self.spoke = time.monotonic()
            rate = (done - self.start) / (self.spoke - self.began)
            print(f"{self.name} {done}/{self.steps}  {rate:.2f} steps/s  {left}  {text}", flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.shown:
            print(f"{self.name} {text}", flush=True)  # above the bar, where there is one

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
