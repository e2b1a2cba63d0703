"""`wfm cosmos convert`: downloaded Cosmos weights to a world folder."""

from dataclasses import dataclass
from pathlib import Path

from wfm_ar.verbs.inputs import refuse_inputs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/cosmos_convert.yaml, which explains them; convert checks their values."""

    src: Path
    out: Path
    name: str
    diffusion_decoder: bool
    height: int
    width: int
    dtype: str
    overwrite: bool


def run(settings: Settings) -> int:
    """Writes the folder and says what is in it."""
    from wfm_ar.cosmos.convert import convert
    from wfm_ar.cosmos.describe import describe

    refuse_inputs([settings.out], {"src": settings.src})
    folder = convert(**vars(settings), progress=lambda part: print(f"{part} ..."))
    print(*describe(folder), sep="\n")
    print(f"`wfm generate world={folder} ...` runs it")
    return 0
