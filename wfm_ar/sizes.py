"""Bounds on the numbers that networks are built from, checked before anything is allocated.

A setting of a billion layers is a slip or an attack; either way it is refused in one line, not by the machine running out of
memory. The bounds are far above every published model.
"""

from typing import Any

from wfm_ar.errors import BadConfig

MOST_PARAMETERS = 1 << 38  # a quarter of a trillion


def check_sizes(config: Any, what: str, **bounds: tuple[int, int]) -> None:
    """Each named field (a whole number, or a tuple of them) must lie within (low, high), ends included. Raises BadConfig."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) > 1024 or any(not low <= number <= high for number in numbers):
            shown = str(value) if len(str(value)) < 60 else f"{str(value)[:60]}..."
            raise BadConfig(f"{what} {name}: got {shown}, expected {low} to {high}; fix: set it within")


def check_parameters(what: str, count: int) -> None:
    """Raises BadConfig for a network that no machine holds; `count` is a lower bound of its parameters."""
    if count > MOST_PARAMETERS:
        raise BadConfig(f"{what}: comes to {count:.3g} parameters, expected at most {MOST_PARAMETERS:.3g}; fix: smaller widths")
