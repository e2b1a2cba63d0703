"""Hooks of mkdocs: parts of the site that are made while it is built, as nobody should have to commit them.

<!-- include FILE -->            the text of a file of the checkout, its links turned into the site's
<!-- code FILE -->               a program, as a listing with its docstring's first line
<!-- module map -->              what each module is
"""

import ast
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from readme import ROOT, between, module_map  # noqa: E402

LINKS = {"](docs/": "](", "](SECURITY.md)": "](security_policy.md)", "](../SECURITY.md)": "](security_policy.md)"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text with what it asks for."""
    if "<!-- module map -->" in markdown:
        markdown = between(markdown, "module map", module_map())
    markdown = re.sub(r"<!-- include (\S+) -->", lambda found: (ROOT / found[1]).read_text(), markdown)
    markdown = re.sub(r"<!-- code (\S+) -->", lambda found: listing(ROOT / found[1]), markdown)
    for written, shown in LINKS.items():
        markdown = markdown.replace(written, shown)
    return markdown


def listing(path: Path) -> str:
    """A heading, what the program is for, and its text."""
    text = path.read_text()
    title, _, rest = (ast.get_docstring(ast.parse(text)) or "").partition("\n")
    body = text.split('"""', 2)[2].strip()
    return f"## {path.name}\n\n{title}\n{rest}\n\n```python\n{body}\n```"
