"""How fast token shards are read: `python tools/token_bench.py [folder]` writes a store of random tokens and times its readers.

Tokens are counted as they leave the reader as int64, what the trainer's rows are made of. Every figure is the best of three.
Run it under `taskset -c 0,1` for the two-core goals: 50 M tokens/s in order, 2 M tokens/s in shuffled windows.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wfm_ar.data.shards import TokenClip, TokenStore, write_store
from wfm_ar.data.token_windows import WindowReader, WindowStream

CLIPS, LATENTS, GRID, ACTIONS, LENGTH, BATCH = 20_000, 33, (8, 8), (4, 2), 9, 64
GOALS = {"in order": 50e6, "shuffled": 2e6, "shuffled, 2 threads": 2e6, "shuffled, files not in memory": 2e6}


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        store = make(Path(folder))
        print(f"{store.num_tokens / 1e6:.0f} M video tokens, {len(store):,} clips of {LATENTS} latents, windows of {LENGTH}; {cores} cores")
        for name, rate in measure(store).items():
            goal = GOALS.get(name)
            print(f"{name:<34} {rate / 1e6:8.1f} M tokens/s" + (f"   goal {goal / 1e6:.0f}" if goal else ""))


def make(folder: Path) -> TokenStore:
    rng = np.random.default_rng(0)

    def clip(i: int) -> TokenClip:
        video = rng.integers(6000, size=(LATENTS, *GRID), dtype=np.uint16)
        return TokenClip(str(i), video, rng.integers(64, size=(LATENTS - 1, *ACTIONS)).astype(np.int16), f"text {i % 50}")

    return write_store(folder, {"actions": True}, CLIPS, lambda part: map(clip, part), 256, lambda done: None)


def measure(store: TokenStore) -> dict[str, float]:
    rates = {}
    began = time.perf_counter()
    TokenStore(store.root, verify=True)
    rates["every byte hashed"] = store.num_tokens / (time.perf_counter() - began)
    for name, shuffle in (("in order", False), ("shuffled", True)):
        reader = WindowReader(store, LENGTH, shuffle=shuffle)
        rates[name] = best(lambda reader=reader: drain(reader, range(0, len(reader), BATCH)))
    halves = [range(0, len(reader) // 2, BATCH), range(len(reader) // 2, len(reader), BATCH)]

    def two() -> int:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(drain, [WindowReader(TokenStore(store.root), LENGTH) for _ in halves], halves))

    rates["shuffled, 2 threads"] = best(two)
    rates["one clip at a time, store[i]"] = best(lambda: sum(store[i].video.astype(np.int64).size for i in range(len(store))))
    forget(store)
    began = time.perf_counter()
    tokens = drain(WindowReader(TokenStore(store.root), LENGTH), range(0, len(reader), BATCH))
    rates["shuffled, files not in memory"] = tokens / (time.perf_counter() - began)
    stream = WindowStream(reader)
    stream.restore(stream.state() | {"position": 10**12 + 7})
    began = time.perf_counter()
    stream.next(1)
    print(f"going on at position 10^12: {1e3 * (time.perf_counter() - began):.2f} ms")
    return rates


def drain(reader: WindowReader, positions: range) -> int:
    tokens = 0
    for position in positions:
        windows = reader.read(position, BATCH)
        tokens += windows.video_Bthw.astype(np.int64).size
        windows.bins_BtrA.astype(np.int64)  # actions are read and converted too, but not counted
    return tokens


def best(run) -> float:
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        tokens = run()
        rates.append(tokens / (time.perf_counter() - began))
    return max(rates)


def forget(store: TokenStore) -> None:
    """Asks the kernel to drop the files from its cache."""
    for path in store.root.rglob("*.npy"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
