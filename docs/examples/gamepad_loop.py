"""Steer a world with a gamepad, one latent at a time.

Run `wfm samples out=samples` first. On Linux the first gamepad (/dev/input/js0) steers; without one the stick goes round in circles.
The loop is what a game has: read the stick, step the world, show the frames. Here they are kept and written as a clip.
"""

import argparse
import math
import os
import struct
from pathlib import Path

import numpy as np

import wfm_ar
from wfm_ar.data.video import read_image, write_video

EVENT = struct.Struct("IhBB")  # time, value, type, number: the joystick interface of Linux
AXIS = 2


class Stick:
    """Two axes in -1 .. 1."""

    def __init__(self, device: Path):
        self.axes, self.steps = [0.0, 0.0], 0
        self.file = os.open(device, os.O_RDONLY | os.O_NONBLOCK) if device.exists() else None

    def read(self) -> tuple[float, float]:
        """Where the stick is now."""
        self.steps += 1
        if self.file is None:
            turn = 2 * math.pi * self.steps / 16
            return math.cos(turn), math.sin(turn)
        try:
            while event := os.read(self.file, EVENT.size):
                _, value, kind, number = EVENT.unpack(event)
                if kind & AXIS and number < 2:
                    self.axes[number] = value / 32767
        except BlockingIOError:  # nothing more to read
            pass
        return self.axes[0], -self.axes[1]  # up is positive in the world


def main(image: Path, steps: int, device: Path, out: Path) -> np.ndarray:
    """Writes what was seen -> uint8 [T, H, W, 3]."""
    world, stick = wfm_ar.load_world("tabletop"), Stick(device)
    highest = np.array([channel.high for channel in world.action_schema.channels[:2]])
    stream = world.start(video=read_image(image), temperature=0.0)
    seen = [stream.given_frames]
    for _ in range(steps):
        action = (np.array(stick.read()) * highest).astype(np.float32)
        seen.append(stream.step(np.tile(action, (world.rate, 1))))  # the actions of one latent, float32 [r, A]
    frames = np.concatenate(seen)
    write_video(out, frames, world.fps, overwrite=True)
    return frames


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=Path("samples/start.png"))
    parser.add_argument("--steps", type=int, default=16, help="latents")
    parser.add_argument("--device", type=Path, default=Path("/dev/input/js0"))
    parser.add_argument("--out", type=Path, default=Path("steered.mp4"))
    main(**vars(parser.parse_args()))
