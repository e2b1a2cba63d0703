"""The simulated worlds by name."""

from wfm_ar.worlds.simulator import Simulator
from wfm_ar.worlds.tabletop import TabletopWorld

SIMULATORS: dict[str, type[Simulator]] = {"tabletop": TabletopWorld}
