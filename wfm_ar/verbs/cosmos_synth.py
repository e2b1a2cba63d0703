"""`wfm cosmos synth`: a release of random weights in the published layout, to try the path from download to clip."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/cosmos_synth.yaml, which explains them; synthesise checks their values."""

    name: str
    scale: str
    out: Path
    seed: int
    overwrite: bool


def run(settings: Settings) -> int:
    """Writes the release and says how to go on."""
    from wfm_ar.cosmos.synth import synthesise, tiny
    from wfm_ar.tokenizers.video import VideoTokenizerConfig

    folder = synthesise(**vars(settings), progress=lambda part: print(f"{part} ..."))
    size = tiny("dv8x16x16")
    assert isinstance(size, VideoTokenizerConfig)
    print(f"{folder}; next: `wfm cosmos convert src={folder} out=WORLD height={size.height} width={size.width} dtype=float32`")
    return 0
