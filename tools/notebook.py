#!/usr/bin/env python3
"""Makes docs/examples/futures.ipynb from docs/examples/futures.py: `python tools/notebook.py`; `--check` says whether it is up to date."""

import ast
import json
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "futures.py"
NOTEBOOK = EXAMPLE.with_suffix(".ipynb")
INPUTS = """from wfm_ar.cli import main as wfm

wfm(["samples", "out=samples", "overwrite=true"])"""
SHOW = """from PIL import Image

frames = main(Path("samples/start.png"), "move at random", 4, 33, Path("futures.mp4"))
Image.fromarray(frames[[0, 8, 16, 32]].reshape(-1, *frames.shape[2:]))  # four moments, one below the other"""


def cell(kind: str, text: str, number: int) -> dict:
    """One cell as the notebook format 4.5 has it."""
    made = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def notebook() -> dict:
    """The example's text and code, without its command line, then a cell that runs it and shows what came out."""
    text = EXAMPLE.read_text()
    tree = ast.parse(text)
    title, _, rest = ast.get_docstring(tree).partition("\n")
    kept = [node for node in tree.body[1:] if not isinstance(node, ast.If)]
    imports = [ast.get_source_segment(text, node) for node in kept if isinstance(node, (ast.Import, ast.ImportFrom))]
    body = [ast.get_source_segment(text, node) for node in kept if not isinstance(node, (ast.Import, ast.ImportFrom))]
    code = "\n".join(line for line in imports if line != "import argparse") + "\n\n\n" + "\n\n\n".join(body)
    texts = [("markdown", f"# {title}\n{rest}"), ("code", INPUTS), ("code", code), ("code", SHOW)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [cell(kind, one, number) for number, (kind, one) in enumerate(texts)]
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def main() -> int:
    made = json.dumps(notebook(), indent=1) + "\n"
    if "--check" in sys.argv:
        behind = not NOTEBOOK.exists() or NOTEBOOK.read_text() != made
        print(f"{NOTEBOOK.name} is behind {EXAMPLE.name}; fix: python tools/notebook.py" if behind else f"{NOTEBOOK.name} is up to date")
        return int(behind)
    NOTEBOOK.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
