"""`wfm data make`: a data set from a simulated world."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/data_make.yaml, which explains them; make_dataset checks their ranges."""

    world: str
    episodes: int
    out: Path
    frames: int
    seed: int
    workers: int
    val_fraction: float
    task: str | None
    masks: bool
    overwrite: bool


def run(settings: Settings) -> int:
    """Makes the set and says where it is."""
    from wfm_ar.worlds.make import make_dataset

    folder = make_dataset(**vars(settings))
    print(f"{settings.episodes} episodes in {folder}; `wfm data check {folder}` checks them")
    return 0
