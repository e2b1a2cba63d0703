"""How much memory loading takes: a checkpoint of a quarter gigabyte, in processes of their own that watch themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wfm_ar.cosmos.names import names_of
from wfm_ar.cosmos.synth import synthesise, tiny
from wfm_ar.world_model.transformer import WorldModelConfig

MIB = 2**20
BESIDE = 48  # MiB for what is no tensor: pieces in work, the allocator's holes, modules imported on the way; 2 to 30 where it was seen
# Private memory, not pages of mapped files: those belong to the system's cache, which takes them back whenever it likes.
WATCH = """
import sys, threading, time
from pathlib import Path

def private():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024

def watched(work):
    begun, peak, over = private(), [0], threading.Event()
    def watch():
        while not over.wait(0.001):
            peak[0] = max(peak[0], private())
    thread = threading.Thread(target=watch)
    thread.start()
    kept = work()
    over.set()
    thread.join()
    print("peak", max(peak[0], private()) - begun, "kept", private() - begun)
    return kept

import torch
from wfm_ar.cosmos.convert import convert
from wfm_ar.cosmos.loading import load_published, open_checkpoint
from wfm_ar.cosmos.recognise import recognise
from wfm_ar.rollout.world import load_world
from wfm_ar.cosmos.shapes import on_meta
from wfm_ar.world_model.transformer import WorldModelConfig
on_meta(WorldModelConfig(vocab=8, out_vocab=8, layers=1, dim=8, heads=1, kv_heads=1, head_dim=8, hidden=8))  # torch imports 75 MiB for it
"""


def large() -> WorldModelConfig:
    return WorldModelConfig(**(vars(tiny("4b")) | {"layers": 10, "dim": 512, "heads": 8, "kv_heads": 2, "head_dim": 64, "hidden": 8192}))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release whose world model is large: 378 MiB in bf16, 62.5 of them in the largest tensor."""
    folder = tmp_path_factory.mktemp("memory") / "release"
    synthesise("4b", folder)
    model = folder / "Cosmos-Predict1-4B" / "model.pt"
    shapes = {name: shape for one in names_of(large()) for name, shape in one.shapes().items()}
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    torch.save({"model": tensors}, model)
    save_file(tensors, folder.parent / "model.safetensors")
    return folder


def run(work: str, *arguments: object) -> tuple[float, float]:
    """(peak, kept) MiB of private memory that a process needs for `work`."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WATCH + work, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    return float(words[1]) / MIB, float(words[3]) / MIB


def sizes(release: Path) -> tuple[float, float]:
    """(MiB of the file, of its largest tensor in bf16)."""
    whole = (release / "Cosmos-Predict1-4B" / "model.pt").stat().st_size / MIB
    return whole, 64000 * 512 * 2 / MIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see memory")
@pytest.mark.parametrize("name", ["release/Cosmos-Predict1-4B/model.pt", "model.safetensors"])
def test_loading_needs_the_network_and_one_tensor(release, name):
    whole, largest = sizes(release)
    assert whole > 250 and whole > 4 * largest
    work = """
checkpoint = open_checkpoint(sys.argv[1])
config = recognise(checkpoint.shapes(), "it")
model = watched(lambda: load_published(config, checkpoint, dtype=torch.bfloat16))
assert sum(p.numel() * 2 for p in model.parameters()) > 250 * 2**20
"""
    peak, kept = run(work, release.parent / name)
    assert whole - 20 < kept < whole + BESIDE and peak < whole + largest + BESIDE


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see memory")
def test_converting_and_loading_a_world(release):
    whole, largest = sizes(release)
    world = release.parent / "world"
    peak, _ = run("watched(lambda: convert(sys.argv[1], sys.argv[2], diffusion_decoder=False))", release, world)
    assert peak < largest + BESIDE < whole / 2  # a tensor, never the whole file
    # straight to a dtype: bf16 in 8 bits, where the network in bf16 was never in memory
    work = "world = watched(lambda: load_world(Path(sys.argv[1]), dtype=torch.bfloat16, int8=('model',)))"
    peak, kept = run(work, world)
    small = 2 * largest + (whole - 2 * largest) / 2  # the blocks in 8 bits; embedding and head stay as they are
    assert small - 20 < kept <= peak < small + largest + BESIDE < whole
