"""The report's tables of objects, free runs and texts: every share with its interval, and beside it what it was made from."""

from collections.abc import Mapping, Sequence
from typing import Any

from wfm_ar.evaluate import plots
from wfm_ar.evaluate.html_parts import facts, figures, text_of
from wfm_ar.evaluate.permanence import GROUPS

KINDS = {  # of objects.py, in the table's order -> what is said of them
    "rollout": "rollout, raw",
    "shown": "rollout as shown (refined, given picture kept)",
    "one_step": "one latent ahead of the truth",
    "tokenizer": "tokenizer's own copy (ceiling)",
    "repeat": "the first frame repeated (floor)",
}
SHARES = {
    "vanished": "vanished",
    "other_colour": "other colour",
    "other_shape": "other shape",
    "doubled": "doubled or split",
    "other_size": "other size",
}
MINUTES = {
    "there": "objects there",
    "in_pieces": "of these in pieces",
    "own_shape": "of these of their shape",
    "appeared": "things from nothing, a frame",
    "background_drift": "background off by, grey levels",
    "peg_found": "peg found",
}


def objects_html(numbers: Mapping[str, Any]) -> str:
    """A table a group of objects, things from nothing, and what the tokenizer makes of what moves."""
    values = {"episodes": numbers["episodes"], "occluded: told by": text_of(numbers["occluded_by"])}
    if numbers.get("copy_iou_in_motion"):
        values["tokenizer's copy, IoU in every frame of the motion"] = _number(numbers["copy_iou_in_motion"])
    if numbers.get("copy_other_shape_in_motion"):
        values["of these with another shape"] = _percent(numbers["copy_other_shape_in_motion"])
    kinds = {kind: numbers[kind] for kind in KINDS if kind in numbers}
    tables = "".join(_group_table(group, kinds) for group in GROUPS)
    curves = {kind: _curve(part, "moved") for kind, part in kinds.items() if "moved" in part["groups"]}
    plot = (
        figures((plots.object_curves(curves, KINDS), "IoU of moved objects with the truth; the rollout's interval is shaded."))
        if curves
        else ""
    )
    return facts(values) + tables + _appeared_table(kinds) + plot


def _group_table(group: str, kinds: Mapping[str, Any]) -> str:
    lines = ""
    for kind, part in kinds.items():
        for horizon, row in part["groups"].get(group, {}).items():
            cells = "".join(f"<td class='n'>{_percent(row.get(name))}</td>" for name in SHARES)
            lines += f"<tr><td>{KINDS[kind]}</td><td class='n'>{horizon}</td><td class='n'>{row['objects']}</td>"
            lines += f"<td class='n measured'>{_number(row['iou'])}</td>{cells}</tr>"
    if not lines:
        return ""
    head = "".join(f"<th class='n'>{title}</th>" for title in ("frame", "objects", "IoU", *SHARES.values()))
    return f"<h3>{group} objects</h3><div class='scroll'><table><tr><th>made by</th>{head}</tr>{lines}</table></div>"


def _appeared_table(kinds: Mapping[str, Any]) -> str:
    horizons = list(next(iter(kinds.values()))["appeared"])
    head = "".join(f"<th class='n'>frame {horizon}</th>" for horizon in horizons)
    lines = "".join(
        f"<tr><td>{KINDS[kind]}</td>" + "".join(f"<td class='n'>{_number(part['appeared'][h])}</td>" for h in horizons) + "</tr>"
        for kind, part in kinds.items()
    )
    return (
        f"<h3>things that appear from nothing, a frame</h3><div class='scroll'><table><tr><th>made by</th>{head}</tr>{lines}</table></div>"
    )


def _curve(part: Mapping[str, Any], group: str) -> dict[int, Sequence[float]]:
    return {int(horizon): row["iou"] for horizon, row in part["groups"][group].items() if row["iou"]}


def free_run_html(numbers: Mapping[str, Any]) -> str:
    """What is left, minute by minute."""
    values = {
        "runs": numbers["runs"],
        "length": f"{numbers['seconds']:.0f} s of the world",
        "objects there at the end": _percent(numbers["there_at_the_end_interval"]),
    }
    minutes = range(len(numbers["by_minute"]["there"]))
    head = "".join(f"<th class='n'>minute {minute + 1}</th>" for minute in minutes)
    lines = ""
    for name, title in MINUTES.items():
        show = _number if name in ("appeared", "background_drift") else _percent
        lines += f"<tr><td>{title}</td>" + "".join(f"<td class='n'>{show(row)}</td>" for row in numbers["by_minute"][name]) + "</tr>"
    table = f"<div class='scroll'><table><tr><th>mean</th>{head}</tr>{lines}</table></div>"
    curves = {MINUTES[name]: [row and row[0] for row in numbers["by_minute"][name]] for name in ("there", "own_shape", "peg_found")}
    curves = {name: [float("nan") if value is None else value for value in row] for name, row in curves.items()}
    return facts(values) + table + figures((plots.by_place(curves, "minute", "share"), "What is left of the first frame."))


def text_sources_html(numbers: Mapping[str, Any]) -> str:
    """What came of each kind of prompt, each number beside what it was made from."""
    alone, absent = numbers["text_alone"], numbers["absent"]
    rows = (
        ("picture and text", "the named object moves as told", numbers["followed_interval"], numbers["episodes"]),
        ("text alone", "the named object, colour and shape, is in frame 0", alone["there_interval"], alone["episodes"]),
        ("text alone", "something of the named colour is in frame 0", alone["colour_there_interval"], alone["episodes"]),
        ("text alone", "it is there, moves as told, and most of all", alone["followed_interval"], alone["episodes"]),
        ("picture and a text that names what is not there", "it appears from nothing", absent["appeared_interval"], absent["episodes"]),
        ("the same", "something else moves 3 cm or more", absent["something_else_moved_interval"], absent["episodes"]),
    )
    lines = "".join(
        f"<tr><td>{a}</td><td>{b}</td><td class='n measured'>{_percent(c)}</td><td class='n'>{n}</td></tr>" for a, b, c, n in rows
    )
    head = "<tr><th>made from</th><th>what is counted</th><th class='n'>share</th><th class='n'>of</th></tr>"
    return f"<div class='scroll'><table>{head}{lines}</table></div>"


def _percent(value: Sequence[float] | None) -> str:
    return "-" if value is None else f"{100 * value[0]:.1f} % ({100 * value[1]:.0f} to {100 * value[2]:.0f})"


def _number(value: Sequence[float] | None) -> str:
    return "-" if value is None else f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"
