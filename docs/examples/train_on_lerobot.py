"""Train on a LeRobot data set, as it is.

Run `wfm samples out=samples` first. So that there is a set to train on, the samples are written as a LeRobot v3.0 one (extra lerobot).
With a set of yours leave that out, and take experiment=robot with a budget= instead of the tiny experiment=smoke.
"""

import argparse
from pathlib import Path

from wfm_ar.cli import main as wfm


def main(samples: Path, lerobot: Path, run: Path, overrides: list[str]) -> Path:
    """Converts, trains, and rolls out the new world -> its folder."""
    commands = [
        ["data", "convert", f"src={samples}", f"out={lerobot}", "format=lerobot", "overwrite=true"],
        ["train", "stage=all", "experiment=smoke", f"data={lerobot}", f"run={run}", *overrides],
        ["generate", f"world={run / 'world'}", f"data={lerobot}", "frames=9", f"out={run / 'first.mp4'}", "overwrite=true"],
    ]
    for command in commands:
        if code := wfm(command):
            raise SystemExit(code)
    return run / "world"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, default=Path("samples/episodes"))
    parser.add_argument("--lerobot", type=Path, default=Path("lerobot_set"))
    parser.add_argument("--run", type=Path, default=Path("runs/lerobot"))
    parser.add_argument("overrides", nargs="*", help="settings of wfm train, such as stages.world_model.steps=500")
    main(**vars(parser.parse_args()))
