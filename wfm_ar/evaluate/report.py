"""The HTML report: one file that holds its plots, pictures and videos, made from report.json's numbers and a few clips.

Nothing is computed here that report.json does not hold, except the pictures. No scripts, no network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wfm_ar.evaluate.bars import BARS, verdict
from wfm_ar.evaluate.control import MOVED, STEP
from wfm_ar.evaluate.html_parts import text_of
from wfm_ar.evaluate.object_tables import free_run_html, objects_html
from wfm_ar.evaluate.section_html import actions_html, prediction_html, refined_html, rollout_html, speed_html, text_html, tokenizer_html
from wfm_ar.evaluate.sheets import Sheet, sheet_html
from wfm_ar.evaluate.verdict_html import listening_html, read_back_html, reality_html, text_choice_html, verdict_html


def render_report(report: Mapping[str, Any], sheets: Mapping[str, Sequence[Sheet]], *, fps: float) -> str:
    """The whole HTML text. `report` is what evaluate returns; `sheets` maps a section ("rollout", "actions", "text") to its examples."""
    parts = [_head(report), verdict_html(report.get("verdict")), _verdict_table(report)]
    makers = {
        "objects": objects_html,
        "free_run": free_run_html,
        "tokenizer": tokenizer_html,
        "prediction": prediction_html,
        "rollout": rollout_html,
        "refined": refined_html,
        "listening": listening_html,
        "read_back": read_back_html,
        "reality": reality_html,
        "text_choice": text_choice_html,
        "actions": actions_html,
        "text": text_html,
        "speed": speed_html,
    }
    for name, make in makers.items():
        title, lead = SECTIONS[name]
        parts.append(f'<section id="{name}"><h2>{title}</h2><p class="lead">{lead}</p>')
        if report.get(name):
            parts.append(make(report[name]))
        else:
            parts.append(f'<p class="missing">Not measured: {text_of(report["not_measured"].get(name, "no reason given"))}</p>')
        parts.extend(sheet_html(sheet, fps) for sheet in sheets.get(name, ()))
        parts.append("</section>")
    parts.append(_settings(report))
    title = f"{text_of(report['world'])}: evaluation"
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


SECTIONS = {
    "objects": (
        "Do things stay what and where they are?",
        "Every object against the truth, found by its colour in both: the overlap of its pixels (IoU), whether it vanished (less than 30 % "
        "of its area left), has another colour, another shape (by its silhouette) or is in more pieces than in truth. Moved: by more than "
        "2 cm from its start. Nothing is pasted from the given picture but in the rows that say so. The strips are the worst five "
        "rollouts by the moved objects' mean IoU, the median and the best.",
    ),
    "free_run": (
        "Free run",
        "From one true frame, on and on under wandering actions. There is no truth to compare with: objects are compared with the first "
        "frame, once a second. Means by minute, with 95 % bootstrap intervals over runs.",
    ),
    "tokenizer": (
        "Video tokenizer",
        "Every clip of the held-out split, encoded and decoded. PSNR and SSIM a frame over R, G and B, averaged over all frames; "
        "SSIM with an 11x11 Gaussian window of sigma 1.5.",
    ),
    "prediction": (
        "Next token",
        "The world model reads the true tokens with text and actions and predicts each next video token.",
    ),
    "rollout": (
        "Rollout",
        "From one frame and the true actions, no text: every later frame is imagined, and nothing of the given picture is pasted into "
        "'rollout' and 'refined'. 'As shown' keeps it where nothing moves, which most of the picture does not. The baseline repeats the "
        "first frame for ever; the tokenizer's own reconstruction is the ceiling.",
    ),
    "refined": (
        "Refined against raw",
        "The diffusion decoder's frames against the tokenizer's decoded ones, both compared with the truth. In reconstructions both "
        "show the true scene; in rollouts they also share the world model's mistakes. As shown, the refined frames keep the given picture "
        "where nothing moves, so that most of what is compared is neither's. The bars are judged on rollouts as the decoders make them.",
    ),
    "listening": (
        "Does it listen?",
        "Held-out clips imagined from their first frame under their own actions, another clip's (shuffled), zero and mirrored ones, no "
        "text. Cost: of the true next latents, read with those actions. PSNR against the true clip, dB. Intervals: 95 %, bootstrap over "
        "clips. A model that does not look at its actions has gaps of zero.",
    ),
    "read_back": (
        "Actions read back",
        "A network that was trained on true clips alone reads the actions off imagined ones: r with what was commanded, for each channel. "
        "True clips, as the tokenizer gives them back, are the ceiling. Steps in which the true clip moves are scored apart.",
    ),
    "reality": (
        "Does it stay real?",
        "Rollouts under the true actions beside the tokenizer's copies of the true clips: the last quarter of the frames, and motion over "
        "all of them.",
    ),
    "text_choice": (
        "The right text among wrong ones",
        "True clips, read without actions and with their own text or with others of the set: is their own the likeliest?",
    ),
    "actions": (
        "Action following",
        f"The peg is found in the generated frames; its displacement over {STEP} frames is compared with the commanded one. r is the worse "
        "of x and y. Shuffled: the larger |r| of rollouts under true actions against another episode's commands, and of rollouts under "
        "another episode's actions against the commands that belonged to the start frame. Both must be near zero.",
    ),
    "text": (
        "Text following",
        f"From a picture and the text, from the text alone, and from a picture and a text that names what is not in it; no "
        f"actions, nothing pasted. From picture and text, the named object must move at least {100 * MOVED:.0f} cm in the named direction, "
        "from its true first place to where it is found in the last frame. An object that is not found counts as a failure. "
        "With the opposite direction in the text the same frames are a control: a model that does not read would score alike on both.",
    ),
    "speed": (
        "Speed and memory",
        "One clip at a time, raw frames, from the call to the last frame, first frame's encoding included; the median of the runs.",
    ),
}


def _head(report: Mapping[str, Any]) -> str:
    counts = {"aim": 0, "bar": 0, "no": 0, "not measured": 0}
    for row in report["bars"]:
        if row["bar"] is not None:
            counts[verdict(row)] += 1
    total = sum(counts.values())
    line = f"{report['episodes']} held-out episodes, the first of the split in file order &middot; {text_of(report['started'])}"
    line += f" &middot; {report['seconds'] / 60:.0f} min &middot; {text_of(report['machine']['name'])}"
    return (
        f"<header><p class='eyebrow'>wfm-ar evaluation</p><h1>{text_of(report['world'])}</h1><p class='facts'>{line}</p>"
        f"<p class='score'><b>{counts['aim'] + counts['bar']}</b> of {total} bars reached"
        f"{', ' + str(counts['not measured']) + ' not measured' if counts['not measured'] else ''}</p></header>"
    )


def _verdict_table(report: Mapping[str, Any]) -> str:
    by_key = {bar.key: bar for bar in BARS}
    rows = []
    for row in report["bars"]:
        bar = by_key[row["key"]]
        sign = "&ge;" if bar.better == "higher" else "&le;"
        goals = [f"{sign} {bar.show(goal)}" if goal is not None else "" for goal in (bar.bar, bar.aim)]
        word = verdict(row)
        label = {"aim": "aim reached", "bar": "bar reached", "no": "not reached", "not measured": "not measured"}[word]
        if row["bar"] is None and word == "no":
            word, label = "not measured", "aim not reached"  # an aim without a bar is no failure
        rows.append(
            f"<tr><td>{text_of(bar.name)}</td><td class='n'>{goals[0]}</td><td class='n'>{goals[1]}</td>"
            f"<td class='n measured'>{bar.show(row['measured'])}</td><td><span class='chip {word.split()[0]}'>{label}</span></td></tr>"
        )
    head = "<tr><th>what</th><th class='n'>bar</th><th class='n'>aim</th><th class='n'>measured</th><th></th></tr>"
    return f"<div class='scroll'><table class='verdict'>{head}{''.join(rows)}</table></div>"


def _settings(report: Mapping[str, Any]) -> str:
    groups = {"settings": report["settings"], "versions": report["versions"], "machine": report["machine"]}
    tables = ""
    for name, values in groups.items():
        rows = "".join(f"<tr><td>{text_of(k)}</td><td>{text_of(v)}</td></tr>" for k, v in values.items())
        tables += f"<div><h3>{name}</h3><table>{rows}</table></div>"
    return f"<section id='settings'><h2>How it was run</h2><div class='columns'>{tables}</div></section>"


STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --paper: #ffffff; --wash: #f5f7fa; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 80px; }
header { padding: 12px 4px 20px; }
.eyebrow { margin: 0; color: var(--soft); letter-spacing: .08em; text-transform: uppercase; font-size: 12px; }
h1 { margin: 2px 0 4px; font-size: 34px; line-height: 1.15; }
h2 { margin: 0 0 4px; font-size: 21px; }
h3 { margin: 0 0 4px; font-size: 15px; }
.facts, .lead, figcaption, .sheet p { color: var(--soft); }
.facts { margin: 0; }
.lead { margin: 0 0 14px; max-width: 78ch; }
.score { margin: 14px 0 0; font-size: 18px; } .score b { font-size: 26px; }
section, .verdict { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
section { margin-top: 22px; padding: 22px 24px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.verdict { border-collapse: separate; border-spacing: 0; overflow: hidden; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--line); text-align: left; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; font-size: 12.5px; color: var(--soft); }
.n { text-align: right; white-space: nowrap; } .measured { font-weight: 650; }
.chip { display: inline-block; padding: 1px 9px; border-radius: 99px; font-size: 12px; white-space: nowrap; }
.chip { background: #edf0f4; color: #4a5666; }
.chip.aim { background: #d7f2e3; color: #0b6b3a; } .chip.bar { background: #e3f0d3; color: #4a6b0b; }
.chip.no { background: #fde2dc; color: #a5280c; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 10px 22px; margin: 0 0 16px; }
dt { color: var(--soft); font-size: 12.5px; line-height: 1.35; } dd { margin: 2px 0 0; font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 18px; margin: 16px 0 4px; }
figure { margin: 0; max-width: 560px; } figure img { width: 100%; } figcaption { font-size: 12.5px; }
.sheet { margin-top: 20px; padding-top: 16px; border-top: 1px solid var(--line); overflow-x: auto; }
.sheet p { margin: 0 0 8px; font-size: 13px; }
.strip { display: grid; grid-template-columns: 96px 1fr; align-items: center; gap: 8px; min-width: 640px; margin-bottom: 3px; }
.strip span { font-size: 12.5px; color: var(--soft); } .strip img { width: 100%; display: block; border-radius: 3px; }
.ticks div { display: flex; } .ticks i { flex: 1; text-align: center; font-style: normal; font-size: 11.5px; color: var(--soft); }
details { margin-top: 6px; } summary { cursor: pointer; font-size: 13px; color: #2563eb; }
video { width: 100%; max-width: 800px; margin-top: 8px; }
.missing { color: #8a5a00; background: #fff6e0; padding: 8px 12px; border-radius: 6px; margin: 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 24px; font-size: 13px; }
.columns td { padding: 3px 8px 3px 0; word-break: break-word; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
