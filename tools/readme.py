#!/usr/bin/env python3
"""Fills in the parts of README.md and docs/*.md that follow from the code and from what was measured.

    python tools/readme.py            rewrite them
    python tools/readme.py --check    say whether they are up to date (exit 1 if not)

Such a part stands between two comments, <!-- NAME --> and <!-- /NAME -->, and NAME is a key of BLOCKS. The numbers of the shipped
world come from its world.json and report.json, those of its plans from docs/measured/plan_bench.json, the pictures and their
captions from docs/pictures/pictures.json (tools/pictures.py makes both). The module map is filled in only while the site is built
(tools/site_hooks.py), so that nobody has to commit it.
"""

import ast
import hashlib
import json
import struct
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORLD = ROOT / "wfm_ar" / "assets" / "tabletop"
PLANS, PICTURES = ROOT / "docs" / "measured" / "plan_bench.json", ROOT / "docs" / "pictures" / "pictures.json"
IN_SHORT = (  # rows of wfm_ar.evaluate.bars that the README shows; docs/results.md has all
    "objects.moved_iou_16",
    "objects.moved_vanished",
    "objects.untouched_iou_32",
    "actions.r_driven",
    "text.followed",
    "text.alone_there",
    "tokenizer.psnr",
    "speed.frames_per_second",
    "speed.demo_peak_bytes",
)


WAYS = {  # of tools/plan_bench.py, in words
    "still": "nothing is done",
    "policy": "the actions that the world's own policy imagines, from picture and text",
    "plan": "`wfm plan`",
    "plan, looking": "the same, planned again from what is seen after every 8 actions",
}


def module_map() -> str:
    """One line a file, folder by folder: the first line of its docstring."""
    lines, folder = [], None
    for top in ("kernels/wfm_kernels", "wfm_ar"):
        for path in sorted((ROOT / top).rglob("*.py"), key=lambda p: (p.parent.parts, p.name != "__init__.py", p.name)):
            doc = ast.get_docstring(ast.parse(path.read_text()))
            if not doc:
                continue
            if path.parent != folder:
                folder = path.parent
                lines += ["", f"## {folder.relative_to(ROOT)}", "", "| file | what it is |", "|---|---|"]
            lines.append(f"| `{path.name}` | {doc.splitlines()[0].replace('|', '/')} |")
    return "\n".join(lines).strip()


def report() -> dict:
    """What `wfm evaluate` measured of the shipped world."""
    return json.loads((WORLD / "report.json").read_text())


def world_hash() -> str:
    """SHA-256 of the shipped world's settings, which name the hash of every other file."""
    return hashlib.sha256((WORLD / "world.json").read_bytes()).hexdigest()


def shipped_world() -> str:
    """Its sizes, from world.json and the heads of its weights."""
    about = json.loads((WORLD / "world.json").read_text())
    tokens, tokenizer = about["sequence"], about["video_tokenizer"]
    rate, side = tokens["rate"], tokenizer["spatial_compression"]
    per_latent = tokens["grid_h"] * tokens["grid_w"]
    frames = "1 frame" if rate == 1 else f"{rate} frames"
    networks = [f"{name.removesuffix('.safetensors').replace('_', ' ')} {parameters(WORLD / name)}" for name in networks_of(about)]
    megabytes = sum(path.stat().st_size for path in WORLD.glob("*") if path.suffix != ".json") / 1e6
    return (
        f"`tabletop`, the world that ships: {tokenizer['width']} x {tokenizer['height']} pixels, {about['fps']:g} frames a second. "
        f"A latent is {frames}, {per_latent} tokens of {side} x {side} pixels out of {tokens['video_vocab']:,} codes. "
        f"Parameters: {', '.join(networks)}; {megabytes:.0f} MB in all."
    )


def networks_of(about: dict) -> list[str]:
    """The weight files of a world, in the order in which they are used."""
    order = ("video_tokenizer", "frame_predictor", "world_model", "diffusion_decoder")
    return [f"{name}.safetensors" for name in order if f"{name}.safetensors" in about["files"]]


def parameters(path: Path) -> str:
    """How many numbers a safetensors file holds, in millions: its head says so."""
    with path.open("rb") as file:
        head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return f"{sum(prod(one['shape']) for name, one in head.items() if name != '__metadata__') / 1e6:.1f} M"


def in_words() -> str:
    """How true the rollouts are, in a few sentences; what was not measured is left out."""
    found = report()
    groups = {kind: found["objects"][kind]["groups"]["moved"] for kind in ("rollout", "repeat")}
    last = max(groups["rollout"], key=int)
    late, floor = groups["rollout"][last], groups["repeat"][last]
    told = found.get("text") or {}
    rows = judged()
    reached = sum(bool(row["passed"]) for row in rows)
    lines = [
        f"How true it is, on {found['episodes']} held-out episodes, as decoded, nothing pasted from the given picture: of "
        f"{late['objects']} objects that were moved, {share(late['vanished'])} have vanished after {last} frames and "
        f"{share(late['other_colour'])} have another colour; the IoU of the moved ones is {late['iou'][0]:.2f} "
        f"(repeating the first frame: {floor['iou'][0]:.2f})."
    ]
    if told.get("followed_interval"):
        lines.append(f"{share(told['followed_interval'])} of {told['episodes']} pushes told in words are done.")
    if (told.get("text_alone") or {}).get("there_interval"):
        appears = share(told["text_alone"]["there_interval"])
        lines.append(f"From a text alone, without a picture, the named object appears in {appears}.")
    lines.append(f"{reached} of the {len(rows)} bars that were set beforehand are reached.")
    return " ".join(lines)


def share(number_and_interval: list[float]) -> str:
    """A share with its 95 % interval."""
    middle, low, high = (100 * value for value in number_and_interval)
    return f"{middle:.0f} % ({low:.0f} to {high:.0f})"


def judged() -> list[dict]:
    from wfm_ar.evaluate.bars import judge

    return judge(report())


def table(keys: tuple[str, ...] | None = None) -> str:
    """The bars with what the shipped world reached: all, or those named."""
    from wfm_ar.evaluate.bars import markdown_table

    return markdown_table([row for row in judged() if keys is None or row["key"] in keys]).strip()


def how_measured() -> str:
    """Under which conditions report.json was made."""
    found = report()
    how, machine = found["settings"], found["machine"]
    guided = f"`text_guidance={how['text_guidance']:g}`, `action_guidance={how['action_guidance']:g}`"
    return (
        f"`wfm evaluate world=tabletop data=...`, {found['started'][:10]}, {found['episodes']} held-out episodes of {how['frames']} "
        f"frames, {found['seconds'] / 60:.0f} minutes on {machine['name']}, {found['speed']['threads']} threads, torch "
        f"{found['versions']['torch']}; `temperature={how['temperature']:g}`, {guided}. The world's card, "
        "`wfm_ar/assets/tabletop/README.md`, says how the data were made; `report.json` beside it has every number with its interval."
    )


def plans() -> str:
    """The table of tools/plan_bench.py."""
    kept = json.loads(PLANS.read_text())
    older = "" if kept["world_sha256"] == world_hash() else " Measured on an earlier world than the one that ships now."
    lines = [
        f"`{kept['command']}`, {kept['day']}, {kept['machine']}.{older}",
        "",
        f"| {kept['episodes']} pushes | median cm away | mean | within 3 cm | seconds, median |",
        "|---|---|---|---|---|",
    ]
    for name, row in kept["ways"].items():
        near = f"{round(row['near'] * kept['episodes'])} of {kept['episodes']}"
        lines.append(
            f"| {WAYS.get(name, name)} | {100 * row['median_m']:.1f} | {100 * row['mean_m']:.1f} | {near} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def picture(page: Path) -> str:
    """The moving picture with its caption, linked from where the page lies."""
    kept = json.loads(PICTURES.read_text())
    place = (PICTURES.parent / "rollout.webp").relative_to(ROOT / "docs" if page.parent.name == "docs" else ROOT)
    return f"![The best, a typical and the worst rollout]({place})\n\n*{kept['caption']}*"


BLOCKS: dict[str, Callable[[], str]] = {
    "shipped world": shipped_world,
    "how true": in_words,
    "results in short": lambda: table(IN_SHORT),
    "results": table,
    "how measured": how_measured,
    "plans": plans,
}


def between(text: str, name: str, content: str) -> str:
    """Replace what stands between the two comments `<!-- name -->` and `<!-- /name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{content}\n{end}{tail}"


def filled(page: Path) -> str:
    """The page's text with every block that it has made anew."""
    text = page.read_text()
    for name, make in (BLOCKS | {"moving picture": lambda: picture(page)}).items():
        if f"<!-- {name} -->" in text:
            text = between(text, name, make())
    return text


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> int:
    behind = [page for page in pages() if filled(page) != page.read_text()]
    if "--check" in sys.argv:
        for page in behind:
            print(f"{page.relative_to(ROOT)} is behind what it shows; fix: python tools/readme.py")
        if json.loads(PICTURES.read_text())["world_sha256"] != world_hash():
            print("docs/pictures show an earlier world; fix: python tools/pictures.py, then python tools/readme.py")
            return 1
        return int(bool(behind))
    for page in behind:
        page.write_text(filled(page))
        print(f"{page.relative_to(ROOT)}: made anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
