"""What the shipped world must reach: every bar and aim, once. The report and the README's table are both made from here.

A bar is what counts as good enough, an aim what would be good; both were set before the first training run. A number that
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


BARS: tuple[Bar, ...] = (
    Bar(key="tokenizer.psnr", name="video tokenizer, PSNR", unit="dB", bar=30.0, aim=35.0),
    Bar(key="tokenizer.ssim", name="video tokenizer, SSIM", bar=0.93, aim=0.97),
    Bar(key="tokenizer.tokens_per_frame", name="video tokenizer, tokens a frame", better="lower", bar=16.0),
    Bar(key="tokenizer.code_usage", name="codes used over the held-out split", unit="%", bar=0.5, aim=0.9),
    Bar(key="rollout.gain_16", name='rollout, PSNR at frame 16 over "repeat the last frame"', unit="dB", bar=3.0),
    Bar(key="rollout.gain_32", name='rollout, PSNR at frame 32 over "repeat the last frame"', unit="dB", bar=2.0),
    Bar(key="rollout.gap_16", name="rollout, PSNR at frame 16 below the tokenizer's own", unit="dB", better="lower", aim=2.0),
    Bar(key="rollout.gap_32", name="rollout, PSNR at frame 32 below the tokenizer's own", unit="dB", better="lower", aim=2.0),
    Bar(key="actions.r_true", name="action following, Pearson r, true actions", bar=0.9, aim=0.98),
    Bar(key="actions.r_shuffled", name="action following, Pearson r, shuffled actions", better="lower", bar=0.2),
    Bar(key="text.followed", name="text following: named object moves >= 3 cm as told", unit="%", bar=0.6, aim=0.9),
    Bar(key="refined.edge_change", name="refined against raw, edge error", unit="%", better="lower", bar=-0.15),
    Bar(key="refined.psnr_change", name="refined against raw, PSNR", unit="dB", bar=-0.3, aim=0.0),
    Bar(key="refined.flicker_change", name="refined against raw, flicker", unit="%", better="lower", bar=0.0),
    Bar(key="speed.frames_per_second", name="generate, one clip at a time, raw frames", unit="frames/s", bar=10.0, aim=30.0),
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
    """The rows of judge() as the README's table: what | bar | aim | measured | reached."""
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
