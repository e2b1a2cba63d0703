"""`wfm doctor`: what this installation has and lacks, as a block to paste into a report. No probe may end it."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import wfm_ar
from wfm_ar.extras import extras, how_to_install, installed, missing
from wfm_ar.machine import cores, cpu_name

PACKAGES = ("torch", "triton", "numpy", "safetensors", "sentencepiece", "av", "hydra-core", "omegaconf")
DRAW = "from wfm_ar.worlds.tabletop import TabletopWorld as T; T().close()"
ENCODERS, DECODERS = ("libx264", "libx264rgb"), ("h264", "hevc", "av1", "vp9")


def run() -> int:
    """Prints the block; exit code 2 if something is missing that every command needs."""
    lines, bad = [], []
    for name, probe in PROBES.items():
        try:
            lines += [f"{name:<10} {line}" for line in probe()]
        except Exception as error:  # a broken installation is what this is for
            bad.append(name)
            lines.append(f"{name:<10} BROKEN: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    print(*lines, "", sep="\n")
    print(f"{'broken: ' + ', '.join(bad) if bad else 'all that every command needs is there'}")
    return 2 if bad else 0


def _wfm() -> list[str]:
    kind = "checkout" if (Path(wfm_ar.__file__).parent.parent / "pyproject.toml").is_file() else "installed package"
    return [f"{wfm_ar.__version__} ({kind})"]


def _machine() -> list[str]:
    lines = [f"{cpu_name()}, {cores()} cores, {platform.system()} {platform.release()}, {platform.machine()}"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        lines.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB of memory")
    return lines


def _packages() -> list[str]:
    lacking = [name for name in PACKAGES if installed(name) is None and (name != "triton" or sys.platform == "linux")]
    if lacking:
        raise ImportError(f"not installed: {', '.join(lacking)}; fix: pip install {' '.join(lacking)}")
    return [", ".join(f"{name} {installed(name)}" for name in PACKAGES if installed(name))]


def _devices() -> list[str]:
    import torch

    wait = os.environ.get("OMP_WAIT_POLICY", "not set")
    lines = [f"cpu: {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, OMP_WAIT_POLICY {wait}"]
    if not torch.cuda.is_available():
        return [*lines, f"cuda: none that torch {torch.__version__} sees"]
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        lines.append(f"cuda:{i}: {card.name}, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}, CUDA {torch.version.cuda}")
    return lines


def _codecs() -> list[str]:
    from wfm_ar.data.video import codecs

    writes, reads = (codecs(names, mode) for names, mode in ((ENCODERS, "w"), (DECODERS, "r")))
    lacking = [name for name, there in (writes | reads).items() if not there]
    told = [", ".join(f"{'no ' * (not there)}{name}" for name, there in found.items()) for found in (writes, reads)]
    if not writes["libx264"] or not reads["h264"]:
        raise ImportError(f"PyAV has no {' and no '.join(lacking)}; fix: pip install --force-reinstall av")
    return [f"writes {told[0]}; reads {told[1]}"]


def _drawing() -> list[str]:
    if missing("sim"):
        return [f"tabletop data cannot be made; fix: {how_to_install('sim')}"]
    # in a process of its own: a broken OpenGL ends the one that asks for it
    found = subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, timeout=120)
    if found.returncode:
        said = found.stderr.strip().splitlines() or [f"the process ended with {found.returncode}"]
        return [f"MuJoCo cannot draw: {said[-1][:300]}"]
    return [f"MuJoCo draws, MUJOCO_GL={os.environ.get('MUJOCO_GL', 'egl')}"]


def _disk() -> list[str]:
    places = {"here": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    return [", ".join(f"{shutil.disk_usage(place).free / 1e9:.0f} GB free ({name})" for name, place in places.items())]


def _world() -> list[str]:
    from wfm_ar.rollout.world import load_world

    return [repr(load_world("tabletop"))]


def _extras() -> list[str]:
    lines = []
    for extra in sorted(extras().keys() - {"dev"}):
        lacking = missing(extra)
        lines.append(f"{extra}: {'here' if not lacking else f'missing; fix: {how_to_install(extra)}'}")
    return lines or ["unknown: wfm-ar is not installed as a package; fix: pip install -e . in the checkout"]


PROBES: dict[str, Callable[[], list[str]]] = {
    "wfm-ar": _wfm,
    "python": lambda: [f"{platform.python_version()} ({platform.python_implementation()})"],
    "machine": _machine,
    "packages": _packages,
    "devices": _devices,
    "codecs": _codecs,
    "world": _world,
    "drawing": _drawing,
    "disk": _disk,
    "extras": _extras,
}
