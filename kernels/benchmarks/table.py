"""The tables of kernels/README.md from results/*.json: python kernels/benchmarks/table.py [--write]"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
README, BEGIN, END = HERE.parent / "README.md", "<!-- results: begin -->\n", "<!-- results: end -->\n"


def tables() -> str:
    """Markdown for all machines."""
    from wfm_kernels.benchmark import goals_table, table

    records = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
    parts = [f"{table(record)}\n\n{goals_table(record['device'], record['rows'])}" for record in records]
    if all(record["device"] != "cuda" for record in records):
        parts.append("No results of a GPU:\n\n" + goals_table("cuda", []))
    return "\n\n".join(parts) + "\n"


def updated(readme: str) -> str:
    """The README with its tables made anew."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + tables() + rest[rest.index(END) :]


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(updated(README.read_text()))
    else:
        print(tables(), end="")
