"""The model card of a world on the hub: what it is, how to use it, and how true it is in the words and numbers of its report.

It knows report.json and texts; which world that is, and where it goes, the caller knows.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadData
from wfm_ar.evaluate.bars import BARS, markdown_table
from wfm_ar.plain_text import shown

REPORT_BYTES = 64 << 20
PARTS = {"alarms": "**Beware**", "good_for": "Good for", "not_good_for": "Not good for"}  # of a verdict
TAGS = ("world-model", "robotics", "video-generation")


def read_report(path: Path) -> dict[str, Any]:
    """A report.json of `wfm evaluate`, as far as a card shows it. Raises BadData."""
    try:
        report = read_json(path, REPORT_BYTES)
    except (OSError, ValueError) as error:
        raise BadData(
            f"{path}: cannot be read ({error}), expected a report.json of `wfm evaluate`; fix: evaluate the world again"
        ) from None
    wrong = "" if isinstance(report, dict) else "the whole"
    kinds = {"world_sha256": str, "data": str, "episodes": int, "started": str, "machine": dict, "versions": dict, "bars": list}
    wrong = wrong or next((key for key, kind in kinds.items() if type(report.get(key)) is not kind), "")
    if not wrong:
        known = {bar.key for bar in BARS}
        sound = all(isinstance(row, dict) and row.get("key") in known and _number(row.get("measured")) for row in report["bars"])
        sound = sound and all({"passed", "reaches_aim"} <= row.keys() for row in report["bars"])
        wrong = "" if sound else "bars"
    verdict = {} if wrong else report.get("verdict") or {}
    if not (isinstance(verdict, dict) and all(_texts(verdict.get(part, [])) for part in PARTS)):
        wrong = "verdict"
    if wrong:
        raise BadData(f"{path}: {wrong}: is not as `wfm evaluate` writes it; fix: evaluate the world again with this wfm-ar")
    return report


def model_card(
    name: str, address: str, facts: list[str], report: Mapping[str, Any] | None, *, license: str | None, made: str, note: str = ""
) -> str:
    """Markdown with the metadata that the hub reads.

    facts: a sentence each on what the world is. made: the card that the world came with, on how it was trained. note: what is to be
    said of the report beside its numbers.
    """
    head = ["---", "library_name: wfm-ar", "pipeline_tag: robotics", f"tags: {json.dumps(list(TAGS))}"]
    head += [f"license: {json.dumps(license)}"] if license else []
    use = ["```bash", f"wfm generate world={address} out=first.mp4", "```", "", "```python", "import wfm_ar", ""]
    use += [f"world = wfm_ar.load_world({json.dumps(address)})", "```"]
    lines = [
        *head,
        "---",
        f"# {name}",
        "",
        "A world model made with wfm-ar: it imagines video, steered by actions and texts. " + " ".join(facts),
    ]
    lines += ["", "## Use", "", "With wfm-ar and its extra `hub`:", "", *use, "", "## How true it is", "", *_measured(report, note)]
    return "\n".join([*lines, "", "## How it was made", "", made.strip(), ""])


def _measured(report: Mapping[str, Any] | None, note: str) -> list[str]:
    if report is None:
        return ["Not measured. `wfm evaluate` measures a world."]
    lines = [note, ""] if note else []
    for part, title in PARTS.items():
        if found := (report.get("verdict") or {}).get(part):
            lines += [f"{title}:", "", *(f"- {shown(text)}" for text in found), ""]
    if rows := [row for row in report["bars"] if row["measured"] is not None]:
        lines += [markdown_table(rows)]
    data, day, machine = report["data"], report["started"][:10], report["machine"].get("name")
    about = f"{report['episodes']} held-out episodes of {data}, {day}, {machine}, wfm-ar {report['versions'].get('wfm-ar')}"
    lines += [f"Measured by `wfm evaluate`: {shown(about)}. `report.json` has every number."]
    return lines


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
