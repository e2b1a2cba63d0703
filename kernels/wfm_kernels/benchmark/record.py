"""What a benchmark run says of its machine, and how its results are shown."""

import importlib
import os
import platform
import subprocess
from pathlib import Path

import torch


def about_machine(device: str) -> dict:
    """Device, clocks where they can be read, versions, load, commit."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    for package in ("triton", "flash_attn", "flashinfer"):
        try:
            versions[package] = importlib.import_module(package).__version__
        except Exception:
            versions[package] = "not installed"
    one = torch.get_num_threads() == 1
    return dict(
        device=device,
        machine=torch.cuda.get_device_name() if device == "cuda" else _cpu("model name") or platform.machine(),
        vectors=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        cores=os.cpu_count(),
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        clocks=_clocks(device),
        commit=_commit(),
        timing="what a run adds to a replayed graph of flushes, cold L2"
        if device == "cuda"
        else f"{'CPU time of one thread' if one else 'wall time'}, warm caches",
        versions=versions,
    )


def file_name(about: dict) -> str:
    """Of the machine's JSON, without folder."""
    threads = "" if about["device"] == "cuda" or about["threads"] == 1 else f"-{about['threads']}-threads"
    name = "".join(c if c.isalnum() else "-" for c in f"{about['device']}-{about['machine']}-{about['vectors']}".lower())
    return "-".join(part for part in name.split("-") if part) + threads + ".json"


def table(record: dict) -> str:
    """Markdown for one machine."""
    load = ", ".join(f"{x:.1f}" for x in record["load_average"] or [])
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version != "not installed")
    lines = [
        f"{record['machine']} ({record['device']}, {record['vectors']}, {record['threads']} thread; {versions}; {record['timing']}; "
        f"clocks {record['clocks']}; load average {load}{'; commit ' + record['commit'] if record.get('commit') else ''}):",
        "",
        "| case | us (low .. high) | share of a copy's speed | times faster than |",
        "|---|---|---|---|",
    ]
    for row in record["rows"]:
        ours = row["microseconds"]["ours"]
        others = [f"{name} {ratio:.2f}" for name, ratio in row["times_faster_than"].items()]
        others += [f"{name}: not run" for name in row.get("not_run", {})]
        times = f"{ours['median']:.0f} ({ours['low']:.0f} .. {ours['high']:.0f})"
        lines.append(f"| {row['name']} | {times} | {100 * row['share_of_copy']:.0f} % | {', '.join(others)} |")
    return "\n".join(lines)


def _commit() -> str | None:
    """Of the checkout this package lies in, "+" behind it where something is not committed; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed.strip() else "")


def _clocks(device: str) -> str:
    if device == "cuda":
        try:
            return f"{torch.cuda.clock_rate()} MHz"
        except Exception:  # needs nvidia-ml-py
            return "not readable"
    speed = _cpu("cpu MHz")
    return f"{float(speed):.0f} MHz" if speed else "not readable"


def _cpu(key: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].strip() for line in lines if line.startswith(key)), None)
