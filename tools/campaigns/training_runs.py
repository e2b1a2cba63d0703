"""What the training campaigns share: clips to train on, and `wfm train` in a forked child that tells what it is doing.

The parent imports everything once and then only forks, waits and hashes: it starts no threads and decodes no video, so that
forking is safe and a run costs what the training costs, not what importing torch costs.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hydra
import numpy as np
import torch.utils.tensorboard  # all that a run imports along its way, once

import wfm_ar.verbs.train
from wfm_ar.cli import main
from wfm_ar.data.video import write_video
from wfm_ar.train import loop
from wfm_ar.train.disk import Disk

IMPORTED = (hydra, torch.utils.tensorboard, wfm_ar.verbs.train)
STAGES = ("video_tokenizer", "world_model", "diffusion_decoder")
TINY = [  # networks that take milliseconds a step
    "experiment=smoke",
    "sequence.max_latents=3",
    "tokenizer.height=32",
    "tokenizer.width=32",
    "tokenizer.background=false",
    "model.dim=32",
    "model.hidden=48",
    "decoder.channels=[8,16]",
    "stages.video_tokenizer.training.crop=0",
    "stages.diffusion_decoder.training.crop=0",
    "stages.video_tokenizer.training.val_clips=1",
    "stages.diffusion_decoder.training.val_clips=1",
    "batch_size=2",
    "log_every=3",
    "deterministic=true",
]


def forked(call) -> int:
    """`call()` in a child -> its exit code; negative for a signal."""
    if (child := os.fork()) == 0:
        os._exit(call() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make_clips(folder: Path, clips: int = 8) -> Path:
    """Clips of a bright square that moves over a noisy floor, 32x32, 9 frames."""

    def write() -> None:
        folder.mkdir(parents=True)
        for i in range(clips):
            rng = np.random.default_rng(i)
            frames = np.broadcast_to(rng.integers(60, 120, (32, 32, 3)), (9, 32, 32, 3)).astype(np.uint8).copy()
            for t in range(9):
                frames[t, 4 + i : 14 + i, 2 * t : 2 * t + 10] = 240
            write_video(folder / f"{i}.mp4", frames, 10)

    assert forked(write) == 0
    return folder


@dataclass
class Child:
    """A training run in a process of its own. What it tells: operations of a save, `done STEP`."""

    words: list[str]
    log: Path
    pid: int = 0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            self._train(write)
        os.close(write)
        self._pipe, self._rest = read, b""
        os.set_blocking(read, False)

    def _train(self, pipe: int) -> None:
        """The child: the command line, with its files' operations told to the parent."""
        code = 99
        with contextlib.suppress(BaseException):
            sys.stdout = sys.stderr = open(self.log, "a", buffering=1)  # noqa: SIM115
            os.dup2(sys.stderr.fileno(), 2)
            save = loop.save_checkpoint

            def telling(*arguments):
                folder = save(*arguments)
                os.write(pipe, f"done {folder.name}\n".encode())
                return folder

            loop.save_checkpoint = telling
            Disk.before = lambda disk, operation, path: os.write(pipe, f"{operation} {path.name}\n".encode())
            code = main(["train", *self.words])
        os._exit(code)

    def listen(self) -> list[str]:
        """All it has told so far."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._pipe, 65536):
                self._rest += piece
        *lines, self._rest = self._rest.split(b"\n")
        self.told += [line.decode() for line in lines]
        return self.told

    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.listen()
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> int:
        """SIGKILL, now. -> its exit code (0 where it was quicker)."""
        os.kill(self.pid, signal.SIGKILL)
        while (code := self.ended()) is None:
            time.sleep(0.002)
        return code

    def wait(self) -> int:
        while (code := self.ended()) is None:
            self.listen()
            time.sleep(0.01)
        return code


def until(seconds: float) -> Iterator[None]:
    """Turns of a waiting loop, for at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.002)


def history(run: Path) -> list[str]:
    """The loss history as hexadecimal floats, without what a clock says."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [" ".join(f"{k}={float(v).hex()}" for k, v in row.items() if k != "samples_per_s") for row in rows]
