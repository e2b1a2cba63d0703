"""The report's plots, each an SVG text made from the numbers of report.json alone, so that they can be drawn again later."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

INK, GRID = "#1c2430", "#e4e8ee"
COLOURS = {
    "tokenizer": "#6b7a90",
    "raw": "#2563eb",
    "refined": "#e4572e",
    "shown": "#7c3aed",
    "repeat": "#b8a15a",
    "true": "#2563eb",
    "shuffled": "#0f9d8a",
    "mirrored": "#e4572e",
    "zero": "#8a94a6",
}
LABELS = {
    "tokenizer": "tokenizer (ceiling)",
    "raw": "rollout",
    "refined": "rollout, refined",
    "shown": "as shown (given picture kept)",
    "repeat": "repeat the last frame",
}


def horizon(by_frame: Mapping[str, Sequence[float]], quartiles: Sequence[Sequence[float]], ylabel: str) -> str:
    """A number against the frame index: one curve for each key of LABELS in `by_frame` (from frame 1), the rollout's quartiles shaded."""
    figure, axes = _figure(5.6, 3.5)
    frames = np.arange(1, 1 + len(next(iter(by_frame.values()))))
    low, high = quartiles
    axes.fill_between(frames, low, high, color=COLOURS["raw"], alpha=0.13, linewidth=0, label="rollout, middle half of the episodes")
    for name, label in LABELS.items():
        if name in by_frame:
            axes.plot(
                frames, by_frame[name], color=COLOURS[name], linewidth=1.9, label=label, linestyle="--" if name == "tokenizer" else "-"
            )
    axes.set_xlabel("frame")
    axes.set_ylabel(ylabel)
    axes.set_xlim(1, frames[-1])
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def object_curves(curves: Mapping[str, Mapping[int, Sequence[float]]], labels: Mapping[str, str]) -> str:
    """IoU against the frame: one curve a kind, frame -> [mean, low, high]; the interval of "rollout" is shaded."""
    figure, axes = _figure(5.6, 3.5)
    colours = {"rollout": COLOURS["raw"], "one_step": COLOURS["shuffled"]}
    for kind, curve in curves.items():
        frames, (means, low, high) = list(curve), zip(*curve.values(), strict=True)
        colour = colours.get(kind, COLOURS.get(kind))
        axes.plot(frames, means, color=colour, linewidth=1.9, marker="o", markersize=3, label=labels[kind])
        if kind == "rollout":
            axes.fill_between(frames, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.set_xlabel("frame")
    axes.set_ylabel("IoU, moved objects")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def follow_scatter(drives: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
    """Commanded against found displacement over a few frames, pixels; one panel an axis."""
    figure, panels = _figure(5.6, 3.1, columns=2)
    for c, axes in enumerate(panels):
        told = [np.array(drives[name]["told_px"])[:, c] for name in names]
        reach = 1.1 * max(1.0, *(float(np.abs(values).max()) for values in told))
        axes.plot([-reach, reach], [-reach, reach], color="#aab3c0", linewidth=1, zorder=0)
        for name, values in zip(names, told, strict=True):
            seen = np.clip(np.array(drives[name]["seen_px"])[:, c], -1.4 * reach, 1.4 * reach)
            axes.scatter(
                values, seen, s=7, alpha=0.5, linewidths=0, color=COLOURS[name], label=f"{name}, r = {drives[name]['r_xy'][c]:.2f}"
            )
        axes.set_title(f"{'xy'[c]} of the picture", fontsize=9)
        axes.set_xlabel("commanded, px")
        axes.set_ylabel("found, px" if c == 0 else "")
        axes.legend(frameon=False, fontsize=7.5, handletextpad=0.1, borderpad=0.1)
    return _svg(figure)


def follow_error(drives: Mapping[str, Mapping[str, Any]]) -> str:
    """Distance of the peg from its commanded place against the frame index, pixels; one curve a kind of actions."""
    figure, axes = _figure(5.6, 3.1)
    for name, numbers in drives.items():
        error = numbers["commanded_error_by_frame"]
        axes.plot(range(len(error)), error, color=COLOURS[name], linewidth=1.9, label=f"{name} actions")
    axes.set_xlabel("frame")
    axes.set_ylabel("peg from its commanded place, px")
    axes.set_xlim(0, len(error) - 1)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def moved(groups: Mapping[str, Sequence[float | None]], threshold: float) -> str:
    """How far named objects moved in the named direction, centimetres: one histogram a group, and the threshold (metres)."""
    figure, axes = _figure(5.6, 3.1)
    values = {name: 100 * np.array([m for m in moves if m is not None]) for name, moves in groups.items()}
    everything = np.concatenate(list(values.values()))
    edges = np.linspace(min(-5.0, float(everything.min(initial=0))), max(10.0, float(everything.max(initial=0))), 31)
    for (name, moves), colour in zip(values.items(), ("#aab3c0", COLOURS["raw"], COLOURS["refined"]), strict=False):
        axes.hist(moves, bins=edges, histtype="stepfilled", alpha=0.35, color=colour)
        axes.hist(moves, bins=edges, histtype="step", linewidth=1.6, color=colour, label=name)
    axes.axvline(100 * threshold, color=INK, linewidth=1, linestyle=":")
    axes.set_xlabel("moved in the named direction, cm (dotted: the threshold)")
    axes.set_ylabel("episodes")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def code_counts(sorted_counts: Sequence[int]) -> str:
    """How often each code is used, most used first, log scale; `sorted_counts` [V] descending."""
    figure, axes = _figure(5.6, 2.8)
    counts = np.array(sorted_counts)
    used = counts[counts > 0]
    axes.fill_between(np.arange(1, 1 + len(used)), used, 0.8, color=COLOURS["raw"], alpha=0.3, linewidth=0)
    axes.plot(np.arange(1, 1 + len(used)), used, color=COLOURS["raw"], linewidth=1.5)
    axes.set_yscale("log")
    axes.set_xlim(0, len(counts))
    axes.set_ylim(bottom=0.8)
    axes.set_xlabel(f"code, most used first ({len(counts):,} in the book)")
    axes.set_ylabel("times used")
    return _svg(figure)


def by_place(values: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> str:
    """Plain curves: name -> values against 1, 2, 3, ..."""
    figure, axes = _figure(5.6, 2.8)
    for (name, row), colour in zip(values.items(), (COLOURS["raw"], COLOURS["refined"], COLOURS["tokenizer"]), strict=False):
        axes.plot(range(1, 1 + len(row)), row, color=colour, linewidth=1.9, marker="o", markersize=3, label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if len(values) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")  # no pyplot: no global state, no display
    panels = figure.subplots(1, columns)
    for axes in np.atleast_1d(panels):
        _dress(axes)
    return figure, panels


def _dress(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#aab3c0")
    axes.tick_params(colors=INK, labelsize=8, length=3, color="#aab3c0")
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)


def _svg(figure: Figure) -> str:
    for text in figure.findobj(Text):  # names of robots and channels are words, not TeX, whatever signs stand in them
        text.set_parse_math(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
