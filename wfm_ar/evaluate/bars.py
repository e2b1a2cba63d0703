"""What the shipped world must reach: every bar and aim, once. The report and the tables of README and docs are made from here.

A bar is what counts as good enough, an aim what would be good; both were set before the world that is to reach them was trained.
Rollouts are judged as decoded, with nothing pasted from the given picture, and by their objects: PSNR over "repeat the last frame" is
in the report, but over mostly still pictures it says little. A number that
could not be measured is reported as such, with the reason, and never counts as passed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row of the table: a number of the report and what it must reach."""

    key: str  # "section.number" in the report
    name: str
    unit: str = ""  # "%" rows hold shares 0..1 in the report and are shown times 100
    better: str = "higher"  # or "lower"
    bar: float | None = None  # in the report's own units; None: only an aim was set
    aim: float | None = None

    def __post_init__(self) -> None:
        assert self.better in ("higher", "lower"), self.better
        assert self.bar is not None or self.aim is not None, f"{self.key}: a row needs a bar or an aim"

    def reaches(self, value: float, goal: float | None) -> bool | None:
        """Does `value` reach `goal`? None where there is no goal."""
        if goal is None:
            return None
        return value >= goal if self.better == "higher" else value <= goal

    def show(self, value: float | None) -> str:
        """A number of this row for a reader, such as '>= 30 dB' without the sign: '30 dB'."""
        if value is None:
            return "-"
        if self.unit == "%":
            return f"{100 * value:.1f} %".replace(".0 %", " %")
        if self.unit == "bytes":
            return f"{value / 2**30:.2f} GiB".replace(".00 ", " ")
        return f"{value:.3g} {self.unit}".strip() if abs(value) < 1 else f"{value:.2f} {self.unit}".replace(".00 ", " ").strip()


_LATE = "rollout, moved objects, frame 16 or 32:"  # the worse of the two
_DRIVEN = "true, shuffled, mirrored actions"  # the worst of the three

BARS: tuple[Bar, ...] = (
    Bar(key="objects.copy_iou", name="tokenizer's own copy: moving objects, IoU in every frame", bar=0.85, aim=0.92),
    Bar(key="objects.copy_shape_right", name="tokenizer's own copy: moving objects, shape right", unit="%", bar=0.95, aim=0.99),
    Bar(key="objects.moved_iou_16", name="rollout, moved objects, IoU at frame 16", bar=0.65, aim=0.80),
    Bar(key="objects.moved_iou_32", name="rollout, moved objects, IoU at frame 32", bar=0.60, aim=0.75),
    Bar(key="objects.moved_vanished", name=f"{_LATE} vanished", unit="%", better="lower", bar=0.05, aim=0.01),
    Bar(key="objects.moved_other_colour", name=f"{_LATE} other colour", unit="%", better="lower", bar=0.02, aim=0.01),
    Bar(key="objects.moved_doubled", name=f"{_LATE} doubled", unit="%", better="lower", bar=0.02, aim=0.01),
    Bar(key="objects.untouched_iou_32", name="rollout, untouched objects, IoU at frame 32", bar=0.93, aim=0.97),
    Bar(key="objects.untouched_vanished_32", name="rollout, untouched objects, vanished", unit="%", better="lower", bar=0.01, aim=0.0),
    Bar(key="actions.found_driven", name=f"peg found, {_DRIVEN}", unit="%", bar=0.97, aim=0.99),
    Bar(key="actions.r_driven", name=f"peg follows, Pearson r, {_DRIVEN}", bar=0.95, aim=0.98),
    Bar(key="actions.r_shuffled", name="peg against commands it was not given, absolute r", better="lower", bar=0.2),
    Bar(key="text.followed", name="from picture and text: named object moves >= 3 cm as told", unit="%", bar=0.8, aim=0.95),
    Bar(key="text.alone_there", name="from text alone: named object in frame 0", unit="%", bar=0.9, aim=0.98),
    Bar(key="text.alone_followed", name="from text alone: it moves >= 3 cm as told", unit="%", bar=0.6, aim=0.85),
    Bar(key="free_run.there_at_the_end", name="free run: objects still there at the end", unit="%", bar=0.8, aim=0.95),
    Bar(key="tokenizer.psnr", name="video tokenizer, PSNR", unit="dB", bar=30.0, aim=35.0),
    Bar(key="tokenizer.ssim", name="video tokenizer, SSIM", bar=0.93, aim=0.97),
    Bar(key="tokenizer.code_usage", name="codes used over the held-out split", unit="%", bar=0.5, aim=0.9),
    Bar(key="refined.edge_change", name="refined against raw, edge error", unit="%", better="lower", bar=-0.15, aim=-0.25),
    Bar(key="refined.psnr_change", name="refined against raw, PSNR", unit="dB", bar=0.0, aim=0.01),
    Bar(key="refined.flicker_change", name="refined against raw, flicker", unit="%", better="lower", bar=0.0),
    Bar(key="speed.frames_per_second", name="generate, one clip at a time, raw frames", unit="frames/s", bar=15.0, aim=30.0),
    Bar(key="speed.stream_p95_ms", name="stream.step, 95th percentile", unit="ms", better="lower", bar=150.0, aim=60.0),
    Bar(key="speed.demo_peak_bytes", name="peak memory of `wfm demo`", unit="bytes", better="lower", bar=2.0 * 2**30, aim=1.0 * 2**30),
)


def judge(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a bar: key, name, unit, better, bar, aim, measured (None: not measured), passed, reaches_aim (None: no such goal).

    `report` maps a section's name to its numbers; a section or number that is missing or None was not measured.
    """
    rows = []
    for bar in BARS:
        section, _, number = bar.key.partition(".")
        value = (report.get(section) or {}).get(number)
        passed = bar.reaches(value, bar.bar) if value is not None else (None if bar.bar is None else False)
        reaches_aim = bar.reaches(value, bar.aim) if value is not None else None
        row = {"key": bar.key, "name": bar.name, "unit": bar.unit, "better": bar.better, "bar": bar.bar, "aim": bar.aim}
        rows.append(row | {"measured": value, "passed": passed, "reaches_aim": reaches_aim})
    return rows


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows of judge() as a Markdown table: what | bar | aim | measured | reached."""
    by_key = {bar.key: bar for bar in BARS}
    lines = ["| what | bar | aim | measured | reached |", "|---|---|---|---|---|"]
    for row in rows:
        bar = by_key[row["key"]]
        sign = "≥" if bar.better == "higher" else "≤"
        goals = [f"{sign} {bar.show(goal)}" if goal is not None else "" for goal in (bar.bar, bar.aim)]
        measured = bar.show(row["measured"]) if row["measured"] is not None else "not measured"
        lines.append(f"| {bar.name} | {goals[0]} | {goals[1]} | {measured} | {verdict(row)} |")
    return "\n".join(lines) + "\n"


def verdict(row: Mapping[str, Any]) -> str:
    """'aim', 'bar', 'no' or 'not measured' for one row of judge()."""
    if row["measured"] is None:
        return "not measured"
    if row["reaches_aim"]:
        return "aim" if row["passed"] is not False else "no"
    return "bar" if row["passed"] else "no"
