"""Pieces of the HTML report that several of its sections use."""

import base64
import html
from collections.abc import Mapping
from typing import Any


def facts(values: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<div><dt>{text_of(k)}</dt><dd>{v}</dd></div>" for k, v in values.items()) + "</dl>"


def figures(*drawn: tuple[str, str]) -> str:
    parts = []
    for svg, caption in drawn:
        source = base64.b64encode(svg.encode()).decode()  # as an image: ids of two SVGs in one page must not meet
        parts.append(f"<figure><img alt='{caption}' src='data:image/svg+xml;base64,{source}'><figcaption>{caption}</figcaption></figure>")
    return f"<div class='figures'>{''.join(parts)}</div>"


def share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def text_of(value: Any) -> str:
    return html.escape(str(value))


def by_robot(numbers: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """A row a robot of `columns` (key of a number -> title), where a data set has several robots."""
    if "by_robot" not in numbers:
        return ""
    head = "".join(f"<th class='n'>{title}</th>" for title in ("episodes", *columns.values()))
    lines = ""
    for robot, row in numbers["by_robot"].items():
        cells = "".join(f"<td class='n'>{row[key]:.3f}</td>" for key in columns)
        lines += f"<tr><td>{text_of(robot)}</td><td class='n'>{row['episodes']}</td>{cells}</tr>"
    return f"<div class='scroll'><table><tr><th>robot</th>{head}</tr>{lines}</table></div>"
