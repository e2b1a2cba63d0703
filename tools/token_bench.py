"""How fast the world-model trainer reads token shards: `python tools/token_bench.py [folder]` writes a store of random tokens and times it.

"In order" is every clip of the store, one after another. "Shuffled windows" is `WorldModelStage.batch` itself, which draws each
window from (seed, step) - one integer is the whole position - with rows left as they were read; "as rows of the model" is the same
with text, actions, hints and targets packed in. Tokens are video tokens as int64; actions are read and converted too, but not
counted. Every figure is the best of three. Run it under `taskset -c 0,1` for the two-core goals: 50 M tokens/s in order, 2 M
tokens/s in shuffled windows.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from wfm_ar.data.shards import TokenClip, TokenStore, write_store
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import SequenceConfig, WorldModelConfig

CLIPS, LATENTS, GRID, RATE, BINS, LENGTH, BATCH = 20_000, 33, (8, 8), 4, (64, 64), 9, 64
LEVELS = (8, 5, 5, 5, 5)
GOALS = {"in order": 50e6, "shuffled windows": 2e6, "shuffled windows, 2 threads": 2e6, "shuffled windows, files not in memory": 2e6}


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        store = make(Path(folder), CLIPS)
        print(f"{store.num_tokens / 1e6:.0f} M video tokens, {len(store):,} clips of {LATENTS} latents, windows of {LENGTH}; {cores} cores")
        for name, rate in measure(store).items():
            goal = GOALS.get(name)
            print(f"{name:<40} {rate / 1e6:8.1f} M tokens/s" + (f"   goal {goal / 1e6:.0f}" if goal else ""))


def make(folder: Path, clips: int) -> TokenStore:
    rng = np.random.default_rng(0)

    def clip(i: int) -> TokenClip:
        video = rng.integers(int(np.prod(LEVELS)), size=(LATENTS, *GRID)).astype(np.uint16)
        return TokenClip(str(i), video, rng.integers(64, size=(LATENTS - 1, RATE, len(BINS))).astype(np.int16), f"text {i % 50}")

    return write_store(folder, {"actions": True}, clips, lambda part: map(clip, part), 256, lambda done: None)


def stage(store: TokenStore, *, packed: bool = False) -> WorldModelStage:
    """packed: batches are rows of the model; else what was read, as it is."""
    grid = {"video_vocab": int(np.prod(LEVELS)), "levels": LEVELS, "grid_h": GRID[0], "grid_w": GRID[1], "rate": RATE}
    sequence = SequenceConfig(**grid, action_bins=BINS, text_vocab=0, max_text=0, max_latents=LENGTH)
    training = WorldModelTraining(short_share=0.0, action_dropout=0.0)
    sizes = {"layers": 1, "dim": 16, "heads": 1, "kv_heads": 1, "head_dim": 16, "hidden": 16}
    made = WorldModelStage(WorldModelConfig(**sizes), sequence, training, store, store, None)
    if not packed:
        made.rows.packed = lambda cuts, latents: {"ids": torch.from_numpy(np.stack([cut.seen for cut in cuts]))}
    return made


def measure(store: TokenStore) -> dict[str, float]:
    rates = {}
    began = time.perf_counter()
    TokenStore(store.root, verify=True)
    rates["every byte hashed"] = store.num_tokens / (time.perf_counter() - began)
    rates["in order"] = best(lambda: in_order(store))
    steps = range(len(store) // BATCH)
    one = stage(store)
    rates["shuffled windows"] = best(lambda: shuffled(one, steps))
    halves = [steps[::2], steps[1::2]]

    def two() -> int:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(shuffled, [stage(TokenStore(store.root)) for _ in halves], halves))

    rates["shuffled windows, 2 threads"] = best(two)
    forget(store)
    cold = stage(TokenStore(store.root))
    began = time.perf_counter()
    rates["shuffled windows, files not in memory"] = shuffled(cold, steps) / (time.perf_counter() - began)
    rows = stage(store, packed=True)
    rates["shuffled windows, as rows of the model"] = best(lambda: shuffled(rows, steps[: max(1, len(steps) // 20)]))
    return rates


def in_order(store: TokenStore) -> int:
    tokens = 0
    for i in range(len(store)):
        clip = store[i]
        tokens += clip.video.astype(np.int64).size
        clip.bins.astype(np.int64)
    return tokens


def shuffled(reader: WorldModelStage, steps: range) -> int:
    for step in steps:
        reader.batch(step, BATCH, 0)
    return len(steps) * BATCH * LENGTH * GRID[0] * GRID[1]


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
