#!/usr/bin/env python3
"""Rewrites the parts of README.md that are made by the code: the module map and the measured results.

    python tools/readme.py            update README.md
    python tools/readme.py --check    say whether it is up to date (exit 1 if not)

The map comes from the first line of every module's docstring, the results from wfm_ar/assets/tabletop/report.json.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def module_map() -> str:
    """One line a file, folder by folder."""
    lines = ["| file | what it is |", "|---|---|"]
    for top in ("kernels/wfm_kernels", "wfm_ar"):
        for path in sorted((ROOT / top).rglob("*.py"), key=lambda p: (p.parent.parts, p.name != "__init__.py", p.name)):
            doc = ast.get_docstring(ast.parse(path.read_text()))
            if doc:
                lines.append(f"| `{path.relative_to(ROOT)}` | {doc.splitlines()[0].replace('|', '/')} |")
    return "\n".join(lines)


def results() -> str:
    """The table of bars with what the shipped world reached."""
    import json

    from wfm_ar.evaluate.bars import judge, markdown_table

    report = ROOT / "wfm_ar" / "assets" / "tabletop" / "report.json"
    return markdown_table(judge(json.loads(report.read_text()))).strip() if report.exists() else "No world has been measured yet."


def between(text: str, name: str, content: str) -> str:
    """Replace what stands between the two comments `<!-- name -->` and `<!-- /name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{content}\n{end}{tail}"


def main() -> int:
    old = README.read_text()
    new = between(between(old, "module map", module_map()), "results", results())
    if "--check" in sys.argv:
        print("README.md is up to date" if new == old else "README.md is behind the code; fix: python tools/readme.py")
        return int(new != old)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
