"""The goals of the kernels, read off the rows of a benchmark run: what was measured beside the bar, or that it was not.

A row of another machine, or an estimate, fills nothing. That decoding reads nothing back to the host is a test, not a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Rows = dict[str, dict[str, Any]]  # a run's rows by name
LARGE, LONE = "attention B32 N32 H8 L4096 K128", "attention B1 N32 H8 L{} K128 T1 bfloat16"
SAMPLE = "sample B{} V65536 top_k 1000 top_p 0.9 bfloat16"
LIBRARY = ("sdpa", "flex_attention")
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Goal:
    """`measure` gives the number (KeyError where a row is missing), `meets` judges it, `show` writes it."""

    work: str
    bar: str
    measure: Callable[[Rows], float]
    meets: Callable[[float], bool]
    show: str


def _median(rows: Rows, name: str) -> float:
    return rows[name]["microseconds"]["ours"]["median"]


def _ratio(rows: Rows, name: str, rival: str) -> float:
    return rows[name]["times_faster_than"][rival]


def _against_library(rows: Rows) -> float:
    ratios = rows[f"{LARGE} T1 bfloat16"]["times_faster_than"]
    return min(ratio for rival, ratio in ratios.items() if rival.startswith(LIBRARY))


def _at_least(bar: float) -> Callable[[float], bool]:
    return lambda number: number >= bar


def _at_most(bar: float) -> Callable[[float], bool]:
    return lambda number: number <= bar


GPU_GOALS = [
    Goal(work="decode attention, 256 rows x KV heads, 4k, of a copy's speed", bar=">= 80 %", meets=_at_least(0.8), show="{:.0%}",
         measure=lambda rows: rows[f"{LARGE} T1 bfloat16"]["share_of_copy"]),
    Goal(work="the same against the best of SDPA and FlexAttention", bar=">= 1.0x", meets=_at_least(1.0), show="{:.2f}x",
         measure=_against_library),
    Goal(work="decode attention, B = 1, 1k and 4k, the slower", bar="<= 12 us", meets=_at_most(12.0), show="{:.1f} us",
         measure=lambda rows: max(_median(rows, LONE.format(length)) for length in (1024, 4096))),
    Goal(work="16 query tokens against 1", bar="<= 1.5x the time", meets=_at_most(1.5), show="{:.2f}x",
         measure=lambda rows: _median(rows, f"{LARGE} T16 bfloat16") / _median(rows, f"{LARGE} T1 bfloat16")),
    Goal(work="int8 cache of 270 MB against bf16", bar=">= 1.5x", meets=_at_least(1.5), show="{:.2f}x",
         measure=lambda rows: _ratio(rows, f"{LARGE} T1 bfloat16 cache int8", "own bfloat16 cache")),
    Goal(work="fp8 cache of 270 MB against bf16", bar=">= 1.5x", meets=_at_least(1.5), show="{:.2f}x",
         measure=lambda rows: _ratio(rows, f"{LARGE} T1 bfloat16 cache float8_e4m3fn", "own bfloat16 cache")),
    Goal(work="shared prefix, B = 64, 4k past, 256 new, against unshared", bar=">= 8x", meets=_at_least(8.0), show="{:.1f}x",
         measure=lambda rows: _ratio(rows, "shared_prefix B64 N32 H8 past4096 new256 K128 bfloat16", "unshared")),
    Goal(work="sample, V = 64k, B = 1 and 64, against softmax + sort + multinomial, the lower", bar=">= 3x", meets=_at_least(3.0),
         show="{:.1f}x", measure=lambda rows: min(_ratio(rows, SAMPLE.format(B), "softmax+sort+multinomial") for B in (1, 64))),
    Goal(work="linear_cross_entropy, 32k tokens x 64k vocabulary: extra memory", bar="<= 0.6 GB", meets=_at_most(0.6), show="{:.2f} GB",
         measure=lambda rows: rows["linear_cross_entropy R32768 D1024 V65536 bfloat16"]["extra_bytes"] / GB),
    Goal(work="the same against compiled cross entropy", bar=">= 1.0x", meets=_at_least(1.0), show="{:.2f}x",
         measure=lambda rows: _ratio(rows, "linear_cross_entropy R32768 D1024 V65536 bfloat16", "F.cross_entropy compiled")),
]  # fmt: skip
CPU_GOALS = [
    Goal(work="shared prefix, B = 16, 512 past, against unshared", bar=">= 2.5x", meets=_at_least(2.5), show="{:.2f}x",
         measure=lambda rows: _ratio(rows, "shared_prefix B16 N4 H4 past512 new16 K32 float32", "unshared")),
    Goal(work="shared prefix, B = 64, 512 past, against unshared", bar=">= 5x", meets=_at_least(5.0), show="{:.2f}x",
         measure=lambda rows: _ratio(rows, "shared_prefix B64 N4 H4 past512 new16 K32 float32", "unshared")),
    Goal(work="the same with two query heads a KV head", bar=">= 5x", meets=_at_least(5.0), show="{:.2f}x",
         measure=lambda rows: _ratio(rows, "shared_prefix B64 N8 H4 past512 new16 K32 float32", "unshared")),
]  # fmt: skip


def goals_table(device: str, rows: list[dict[str, Any]]) -> str:
    """Markdown: each goal of a device, its bar, and what these rows (those of one run) say."""
    named = {row["name"]: row for row in rows}
    lines = ["| goal | bar | measured | |", "|---|---|---|---|"]
    for goal in GPU_GOALS if device == "cuda" else CPU_GOALS:
        try:
            number = goal.measure(named)
        except (KeyError, ValueError):
            lines.append(f"| {goal.work} | {goal.bar} | not measured | |")
            continue
        lines.append(f"| {goal.work} | {goal.bar} | {goal.show.format(number)} | {'reached' if goal.meets(number) else 'missed'} |")
    return "\n".join(lines)
