"""`wfm cosmos info`: what a file or folder of Cosmos weights is, and the memory it takes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/cosmos_info.yaml, which explains them."""

    path: Path | None


def run(settings: Settings) -> int:
    """Prints two lines a network, or the table of published models."""
    from wfm_ar.cosmos.describe import describe, memory_table

    lines = memory_table() if settings.path is None else describe(settings.path)
    for line in lines:
        print(line)
    return 0
