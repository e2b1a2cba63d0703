"""Optional packages: which ones an extra stands for, and how to install them, from a checkout or a wheel alike."""

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version


@cache
def extras() -> dict[str, tuple[str, ...]]:
    """Each extra's requirements as pip takes them, from the installed metadata; {} where wfm-ar is not installed."""
    try:
        wanted = requires("wfm-ar") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for one in wanted:
        needed, _, marker = one.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if extra and not needed.startswith("wfm-ar"):
            found.setdefault(extra[1], []).append(needed.strip())
    return {extra: tuple(names) for extra, names in found.items()}


def how_to_install(extra: str) -> str:
    """A command that installs what the extra stands for. It names the packages: wfm-ar itself may be a checkout."""
    names = extras().get(extra)
    return f"pip install {' '.join(repr(name) for name in names)}" if names else f"pip install -e '.[{extra}]' in the checkout"


def missing(extra: str) -> list[str]:
    """The requirements of an extra that are not installed."""
    return [one for one in extras().get(extra, ()) if installed(re.split(r"[\[><=!~; ]", one)[0]) is None]


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
