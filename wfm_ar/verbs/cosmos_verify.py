"""`wfm cosmos verify`: golden files of the published networks against ours, one line a check."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/cosmos_verify.yaml, which explains them."""

    folder: Path


def run(settings: Settings) -> int:
    """Prints name, largest error, tolerance, ok or FAIL; 0 if all hold, else 1."""
    from wfm_ar.cosmos.verify import verify_folder

    made = failed = 0
    for check in verify_folder(settings.folder):
        print(check, flush=True)
        made, failed = made + 1, failed + (not check.ok)
    print(f"{made} checks, {failed} failed")
    return 1 if failed else 0
