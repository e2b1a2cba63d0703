"""Prints the tables of kernels/README.md from results/*.json: python kernels/benchmarks/table.py"""

import json
from pathlib import Path


def table(record: dict) -> str:
    """Markdown for one machine."""
    load = ", ".join(f"{x:.1f}" for x in record["load_average"] or [])
    machine = f"{record['machine']} ({record['device']}, {record['threads']} thread, torch {record['torch']}"
    lines = [
        f"{machine}; {record['timing']}; load average {load}):",
        "",
        "| case | us (low .. high) | share of a copy's speed | against |",
        "|---|---|---|---|",
    ]
    for row in record["rows"]:
        ours = row["microseconds"]["ours"]
        rivals = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in row["times_faster_than"].items())
        times = f"{ours['median']:.0f} ({ours['low']:.0f} .. {ours['high']:.0f})"
        lines.append(f"| {row['name']} | {times} | {100 * row['share_of_copy']:.0f} % | {rivals} |")
    return "\n".join(lines)


if __name__ == "__main__":
    for path in sorted((Path(__file__).resolve().parent / "results").glob("*.json")):
        print(table(json.loads(path.read_text())) + "\n")
