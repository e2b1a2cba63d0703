"""Keep the finished stages of a training run in a small folder, and begin a run with them elsewhere.

    python tools/stages.py keep runs/tabletop_frames tools/tabletop_frames       the averaged weights, in half precision, and their settings
    python tools/stages.py restore tools/tabletop_frames runs/tabletop_frames    checkpoints that `wfm train` goes on from

A stage that was restored counts as done: `wfm train` with the same recipe goes on with the next one. It cannot be trained further, as the
optimiser's state is not kept.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from wfm_ar.errors import WfmError
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from wfm_ar.train.stages import STAGES

KEPT = ("step", "stage", "describe")  # of a checkpoint's state
LARGE = 1000  # numbers of a tensor from which on it is kept as float16; what is smaller, running statistics among it, stays float32


def keep(run: Path, folder: Path) -> None:
    """Write the newest averaged weights of each stage of `run` to `folder`/<stage>.safetensors, large tensors as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if (newest := newest_checkpoint(run / stage)) is None:
            continue
        tensors, state = load_checkpoint(newest, groups=("ema",))
        halves = {name: t.half() if t.dtype == torch.float32 and t.numel() >= LARGE else t for name, t in tensors["ema"].items()}
        metadata = {"state": json.dumps({name: state[name] for name in KEPT})}
        save_file({name: t.contiguous() for name, t in halves.items()}, folder / f"{stage}.safetensors", metadata)
        print(f"{stage}: step {state['step']}, {(folder / f'{stage}.safetensors').stat().st_size / 1e6:.1f} MB")


def restore(folder: Path, run: Path) -> None:
    """Make a checkpoint in `run` of each stage that `folder` holds."""
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        state = json.loads(header["__metadata__"]["state"])
        weights = {name: t.float() if t.dtype == torch.float16 else t for name, t in load_file(file).items()}
        save_checkpoint(run / state["stage"], state["step"], {"model": weights, "ema": weights}, state, keep=1)
        print(f"{run / state['stage']}: step {state['step']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("keep", "restore"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    try:
        {"keep": keep, "restore": restore}[given.action](given.source, given.target)
    except (WfmError, OSError, KeyError, ValueError) as error:
        sys.exit(f"stages: {error}")


if __name__ == "__main__":
    main()
