"""What a user decides about curation."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from wfm_ar.data.curate.captions import arguments
from wfm_ar.errors import BadConfig


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Limits and targets; conf/data_curate.yaml explains each for users."""

    shots: bool = True  # split at cuts and fades through black; needs the extra [curate]
    shot_threshold: float = 3.0  # how far a cut must stand out from the changes around it
    min_seconds: float = 1.0
    max_seconds: float | None = 30.0  # longer pieces are parted evenly; None = never
    black_level: float = 16.0  # luma 0..255; a frame with 95 % of its area darker is black
    min_motion: float = 8.0  # grey levels 0..255 that something must change by; 0 keeps still clips
    duplicate_distance: float | None = 0.1  # share of hash bits in which near-duplicates may differ; None keeps them
    height: int | None = None  # pixels; with width: the largest centred part of that shape, resized
    width: int | None = None  # pixels
    fps: float | None = None  # frames a second; frames are left out, never repeated
    actions: Literal["auto", "sum", "last", "mean", "drop"] = "auto"  # how actions are joined where fps leaves out frames
    crf: int = 16  # H.264 quality of the written clips
    captions: Path | None = None  # JSONL of {"id", "text"}
    caption_command: str | None = None
    caption_timeout_s: float = 120.0
    recaption: bool = False  # replace texts that the data has already

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise BadConfig(f"height and width: got {self.height} and {self.width}, expected both or neither; fix: set the other one too")
        for key in ("height", "width"):
            side = getattr(self, key)
            if side is not None and (side < 16 or side % 2):
                raise BadConfig(f"{key}: got {side}, expected an even number of at least 16 pixels; fix: {key}={max(16, side + side % 2)}")
        for key in ("shot_threshold", "min_seconds", "max_seconds", "fps", "caption_timeout_s"):
            value = getattr(self, key)
            if value is not None and not 0 < value < float("inf"):
                raise BadConfig(f"{key}: got {value}, expected a number above 0; fix: see `wfm data curate --help`")
        if self.max_seconds is not None and self.max_seconds < 2 * self.min_seconds:
            raise BadConfig(
                f"max_seconds: got {self.max_seconds:g}, expected at least twice min_seconds ({self.min_seconds:g}), or pieces would "
                f"be too short; fix: max_seconds={2 * self.min_seconds:g}"
            )
        for key, most in (("black_level", 255), ("min_motion", 255), ("crf", 51)):
            if not 0 <= getattr(self, key) <= most:
                raise BadConfig(f"{key}: got {getattr(self, key)}, expected 0 to {most}; fix: see `wfm data curate --help`")
        if self.duplicate_distance is not None and not 0 <= self.duplicate_distance < 0.5:
            raise BadConfig(
                f"duplicate_distance: got {self.duplicate_distance}, expected 0 to 0.5; fix: 0.1 is a good value, null keeps all"
            )
        if self.caption_command is not None:
            arguments(self.caption_command)

    def to_json(self) -> dict[str, Any]:
        """Plain values, equal for equal settings."""
        return asdict(self) | {"captions": None if self.captions is None else str(self.captions)}
