"""Frames a second through the decoding child beside plain PyAV in this process, same clip, alternating; wall clock and CPU time.

Run `python tools/campaigns/decode_speed.py [--clip FILE]`; without a file it makes a 256x256 H.264 clip. Prints the medians of rounds.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from wfm_ar.data.video import read_video, write_video
from wfm_ar.decoding import pool


def plain(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def cpu_seconds() -> float:
    total = time.process_time()
    for pid in pool.child_ids():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.clip or Path(folder) / "clip.mp4"
        if not options.clip:
            t, y, x = np.mgrid[:60, :256, :256] / 16.0
            waves = np.stack([127 + 90 * np.sin(x + t), 127 + 90 * np.cos(y - t), 127 + 90 * np.sin(x + y + 2 * t)], -1)
            noise = np.random.default_rng(0).integers(-6, 6, waves.shape)
            write_video(path, (waves + noise).clip(0, 255).astype(np.uint8), 20)
        began = time.monotonic()
        frames = len(read_video(path))
        first = time.monotonic() - began
        assert np.array_equal(plain(path), read_video(path)), "both ways must give the same pixels"
        speeds: dict[str, list[tuple[float, float]]] = {"plain": [], "child": []}
        for _ in range(options.rounds):
            for name, read in (("plain", plain), ("child", read_video)):
                wall, cpu = time.monotonic(), cpu_seconds()
                for _ in range(4):
                    read(path)
                speeds[name].append((4 * frames / (time.monotonic() - wall), 4 * frames / max(cpu_seconds() - cpu, 1e-3)))
        wall, cpu = ({name: statistics.median(each[i] for each in all_of) for name, all_of in speeds.items()} for i in (0, 1))
    print(f"{frames} frames, first call {first:.2f} s with the child's start")
    for what, of in (("a second", wall), ("a CPU second", cpu)):
        print(f"frames {what}: plain {of['plain']:.0f}, child {of['child']:.0f}, ratio {of['child'] / of['plain']:.2f}")


if __name__ == "__main__":
    main()
