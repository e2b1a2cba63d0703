"""What a run says while it goes: log.jsonl, TensorBoard, PNG pictures, and a progress bar or plain lines."""

import json
import sys
import time
from pathlib import Path

import torch


class RunLog:
    """Appends numbers to log.jsonl and TensorBoard, and pictures to TensorBoard and `pictures/<name>.png`."""

    def __init__(self, run: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed by training only

        self.run = run
        path = run / "log.jsonl"
        kept = []
        if path.exists():  # lines past the checkpoint we go on from will be written again
            kept = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= start]
        path.write_text("".join(line + "\n" for line in kept))
        self.file = open(path, "a", buffering=1)  # noqa: SIM115 - held for the life of the run
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start or None)

    def write(self, step: int, numbers: dict[str, float], pictures: dict[str, torch.Tensor] | None = None) -> None:
        """numbers -> one line and one scalar each; pictures uint8 [H, W, 3] -> image panels and PNG files."""
        from wfm_ar.data.video import write_image

        self.file.write(json.dumps({"step": step} | {k: float(v) for k, v in numbers.items()}) + "\n")
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
        for name, picture in (pictures or {}).items():
            self.board.add_image(name, picture, step, dataformats="HWC")
            (self.run / "pictures").mkdir(exist_ok=True)
            write_image(self.run / "pictures" / f"{name}.png", picture.numpy(), overwrite=True)

    def close(self) -> None:
        self.file.close()
        self.board.close()


class Progress:
    """A live bar on a terminal, a line every ten seconds elsewhere: rate, loss, time left."""

    def __init__(self, name: str, start: int, steps: int):
        self.name, self.start, self.steps = name, start, steps
        self.began = self.spoke = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.fields[numbers]}"))
            self.task = self.bar.add_task(name, total=steps, completed=start, numbers="")
            self.bar.start()

    def update(self, done: int, numbers: dict[str, float]) -> None:
        """Show the newest numbers after `done` steps."""
        text = " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self.bar:
            self.bar.update(self.task, completed=done, numbers=text)
        elif time.monotonic() - self.spoke > 10 or done == self.steps:
            self.spoke = time.monotonic()
            rate = (done - self.start) / (self.spoke - self.began)
            left = (self.steps - done) / max(rate, 1e-9)
            print(f"{self.name} {done}/{self.steps}  {rate:.2f} steps/s  {left / 60:.1f} min left  {text}", flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        (self.bar.console.print if self.bar else lambda t: print(t, flush=True))(f"{self.name} {text}")

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
