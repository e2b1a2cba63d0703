"""How a world is served, before anything heavy is imported."""

from dataclasses import dataclass

from wfm_ar.errors import BadConfig


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """How a world is served. Raises BadConfig where a value cannot be."""

    host: str = "127.0.0.1"
    port: int = 8765  # 0: any that is free
    sessions: int = 4  # at once
    memory: int = 384  # MiB a session, of pictures and marks
    speed: float = 2.0  # times the world's own pace, at first

    def __post_init__(self) -> None:
        for name, low, high in (("port", 0, 65535), ("sessions", 1, 64), ("memory", 16, 1 << 20), ("speed", 0.1, 16)):
            if not low <= getattr(self, name) <= high:
                fix = f"leave it out for {getattr(PlayConfig, name)}"
                raise BadConfig(f"{name}: got {getattr(self, name)}, expected {low} to {high}; fix: {fix}")
