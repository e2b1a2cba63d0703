"""The HTML report: one file that holds its plots, pictures and videos, made from report.json's numbers and a few clips.

Nothing is computed here that report.json does not hold, except the pictures. No scripts, no network.
"""

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.video import write_image, write_video
from wfm_ar.evaluate import plots
from wfm_ar.evaluate.bars import BARS, verdict
from wfm_ar.evaluate.control import DRIVES, MOVED, STEP
from wfm_ar.evaluate.html_parts import by_robot, facts, figures, share, text_of
from wfm_ar.evaluate.object_tables import free_run_html, objects_html, text_sources_html
from wfm_ar.evaluate.quality import REFINED
from wfm_ar.evaluate.verdict_html import listening_html, read_back_html, reality_html, text_choice_html, verdict_html

GAP = 2  # pixels between frames of a strip


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Clips of one episode below each other, frame by frame."""

    title: str
    note: str = ""
    rows: tuple[tuple[str, np.ndarray], ...]  # (label, frames uint8 [T, H, W, 3]), all of one shape
    mark: str = ""  # "failure", "worst 1 of 96", "typical: ...", "best of 96", shown before the title
    fps: float | None = None  # frames a second, where robots of several rates act; None: the world's


def render_report(report: Mapping[str, Any], sheets: Mapping[str, Sequence[Sheet]], *, fps: float) -> str:
    """The whole HTML text. `report` is what evaluate returns; `sheets` maps a section ("rollout", "actions", "text") to its examples."""
    parts = [_head(report), verdict_html(report.get("verdict")), _verdict_table(report)]
    makers = {
        "objects": objects_html,
        "free_run": free_run_html,
        "tokenizer": _tokenizer,
        "prediction": _prediction,
        "rollout": _rollout,
        "refined": _refined,
        "listening": listening_html,
        "read_back": read_back_html,
        "reality": reality_html,
        "text_choice": text_choice_html,
        "actions": _actions,
        "text": _text,
        "speed": _speed,
    }
    for name, make in makers.items():
        title, lead = SECTIONS[name]
        parts.append(f'<section id="{name}"><h2>{title}</h2><p class="lead">{lead}</p>')
        if report.get(name):
            parts.append(make(report[name]))
        else:
            parts.append(f'<p class="missing">Not measured: {text_of(report["not_measured"].get(name, "no reason given"))}</p>')
        parts.extend(_sheet(sheet, fps) for sheet in sheets.get(name, ()))
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


def _tokenizer(numbers: Mapping[str, Any]) -> str:
    values = {
        "PSNR": f"{numbers['psnr']:.2f} dB",
        "SSIM": f"{numbers['ssim']:.4f}",
        "tokens a frame": f"{numbers['tokens_per_frame']:g}",
        "codes used": f"{100 * numbers['code_usage']:.1f} % of {numbers['codes']:,}",
        "perplexity": f"{numbers['perplexity']:,.0f}",
        "still tokens": f"{100 * numbers['still_tokens']:.1f} %",
        "clips": f"{numbers['clips']}",
    }
    return facts(values) + figures((plots.code_counts(numbers["sorted_counts"]), "How often each code is used."))


def _prediction(numbers: Mapping[str, Any]) -> str:
    values = {
        "loss": f"{numbers['loss']:.3f} nats a video token",
        "accuracy": f"{100 * numbers['accuracy']:.1f} %",
    }
    if numbers["loss_changed"] is not None:  # clips of two latents, or still ones, have no token that changes
        values["loss where the token changes"] = f"{numbers['loss_changed']:.3f}"
        values["accuracy where it changes"] = f"{100 * numbers['accuracy_changed']:.1f} %"
    values["tokens"] = f"{numbers['tokens']:,}"
    figure = plots.by_place({"loss": numbers["loss_by_latent"]}, "latent", "loss, nats a token")
    table = by_robot(numbers, {"loss": "loss, nats", "accuracy": "accuracy"})
    return facts(values) + table + figures((figure, "Loss against the place of the latent; the first has no actions behind it."))


def _rollout(numbers: Mapping[str, Any]) -> str:
    frames = [frame for frame in (8, 16, 24, 32, 48) if f"gain_{frame}" in numbers]
    head = "".join(f"<th class='n'>frame {frame}</th>" for frame in frames)
    lines = ""
    for name, label in plots.LABELS.items():
        if name in numbers["psnr_by_frame"]:
            cells = "".join(f"<td class='n'>{numbers['psnr_by_frame'][name][frame - 1]:.2f}</td>" for frame in frames)
            lines += f"<tr><td>{label}</td>{cells}</tr>"
    gains = "".join(f"<td class='n measured'>{numbers[f'gain_{frame}']:+.2f}</td>" for frame in frames)
    lines += f"<tr><td>rollout over repeat</td>{gains}</tr>"
    table = f"<div class='scroll'><table><tr><th>PSNR, dB</th>{head}</tr>{lines}</table></div>"
    drawn = [
        (plots.horizon(numbers[f"{kind}_by_frame"], numbers[f"{kind}_quartiles"], label), f"{label} against the frame, mean over episodes.")
        for kind, label in (("psnr", "PSNR, dB"), ("ssim", "SSIM"))
    ]
    columns = {"psnr_raw_last": "PSNR of the last frame, dB"} | {f"gain_{frame}": f"frame {frame} over repeat, dB" for frame in frames}
    return table + by_robot(numbers, columns) + figures(*drawn)


def _refined(numbers: Mapping[str, Any]) -> str:
    lines = ""
    for where in REFINED:
        for name, unit in (("psnr", "dB"), ("ssim", ""), ("edge_error", "grey levels"), ("flicker", "grey levels")):
            raw, refined = numbers[where]["raw"][name], numbers[where]["refined"][name]
            change = f"{refined - raw:+.2f} dB" if name == "psnr" else f"{100 * (refined / raw - 1):+.1f} %" if raw else "-"
            better = (refined > raw) == (name in ("psnr", "ssim"))
            lines += (
                f"<tr><td>{where}</td><td>{name.replace('_', ' ')}{', ' + unit if unit else ''}</td><td class='n'>{raw:.3f}</td>"
                f"<td class='n'>{refined:.3f}</td><td class='n'>{change}</td><td>{'better' if better else 'worse'}</td></tr>"
            )
    head = "<tr><th>on</th><th>number</th><th class='n'>raw</th><th class='n'>refined</th><th class='n'>change</th><th></th></tr>"
    return f"<div class='scroll'><table>{head}{lines}</table></div>"


def _actions(numbers: Mapping[str, Any]) -> str:
    failures = numbers["gate"]
    state = "passed" if not failures else "failed: " + "; ".join(failures)
    gate = f"<p><span class='chip {'aim' if not failures else 'no'}'>gate</span> {text_of(state)}</p>"
    lines = ""
    for name in DRIVES:
        drive = numbers["drives"][name]
        r = "&ndash;" if name == "zero" else " / ".join(f"{value:.3f}" for value in drive["r_xy"])
        lines += (
            f"<tr><td>{name}</td><td class='n'>{r}</td><td class='n'>{drive['commanded_error_px']:.2f} px</td>"
            f"<td class='n'>{100 * drive['found']:.1f} %</td></tr>"
        )
    table = (
        "<div class='scroll'><table><tr><th>actions given</th><th class='n'>r with their commands, x / y</th>"
        f"<th class='n'>distance from the commanded place</th><th class='n'>peg found</th></tr>{lines}</table></div>"
    )
    pairs = {key: " / ".join(f"{value:.3f}" for value in numbers[key]) for key in ("r_against_partner_xy", "r_replay_xy")}
    values = {
        "r, true actions": f"{numbers['r_true']:.3f}",
        "|r|, shuffled": f"{numbers['r_shuffled']:.3f}",
        "pixel error, true actions": f"{numbers['pixel_error']:.2f} px",
        "true rollouts against the partner's commands, r x / y": pairs["r_against_partner_xy"],
        "partner-driven rollouts against the start's own commands, r x / y": pairs["r_replay_xy"],
        "stray when told to stay": f"{numbers['zero_drift_px']:.2f} px in {STEP} frames, {numbers['zero_drift_end_px']:.1f} px at the end",
        "the true frames themselves": " / ".join(f"{value:.3f}" for value in numbers["r_of_truth_xy"]),
    }
    return (
        gate
        + facts(values)
        + table
        + figures(
            (plots.follow_scatter(numbers["drives"], ("true", "mirrored")), f"Commanded and found displacement over {STEP} frames."),
            (plots.follow_error(numbers["drives"]), "How far the peg is from where its commands take it."),
        )
    )


def _text(numbers: Mapping[str, Any]) -> str:
    values = {
        "from picture and text: followed": f"{100 * numbers['followed']:.1f} % of {numbers['episodes']}",
        "opposite direction followed": f"{100 * numbers['opposite']['followed']:.1f} %",
        "the true episodes, same measure": f"{100 * numbers['truth_followed']:.1f} %",
        "object not found": f"{numbers['not_found']}",
        "mean way": f"{100 * numbers['mean_moved_m']:.1f} cm" if numbers["mean_moved_m"] is not None else "-",
    }
    lines = ""
    for direction, row in numbers["by_direction"].items():
        other = numbers["opposite"]["by_direction"][direction]
        cells = "".join(f"<td class='n'>{share(part['followed'])} of {part['episodes']}</td>" for part in (row, other))
        lines += f"<tr><td>{direction}</td>{cells}</tr>"
    head = "<tr><th>told to push</th><th class='n'>the episode's own text</th><th class='n'>opposite of its text</th></tr>"
    table = f"<div class='scroll'><table>{head}{lines}</table></div>"
    groups = {"opposite text": numbers["opposite"]["moved_m"], "own text": numbers["moved_m"]}
    return text_sources_html(numbers) + facts(values) + table + figures((plots.moved(groups, MOVED), "How far the named object moved."))


def _speed(numbers: Mapping[str, Any]) -> str:
    values = {"device": f"{text_of(numbers['device'])}, {numbers['threads']} threads"}
    if numbers.get("frames_per_second") is not None:
        values["generate, text and imagined actions"] = f"{numbers['frames_per_second']:.1f} frames/s"
        values["its runs"] = ", ".join(f"{value:.1f}" for value in numbers["runs"])
    if numbers.get("driven_frames_per_second") is not None:
        values["generate, given actions"] = f"{numbers['driven_frames_per_second']:.1f} frames/s"
    if numbers.get("stream_p95_ms") is not None:
        values["stream.step, 95th percentile"] = f"{numbers['stream_p95_ms']:.0f} ms"
    values["peak memory of this evaluation"] = f"{numbers['peak_bytes'] / 2**30:.2f} GiB"
    if numbers.get("demo_peak_bytes") is not None:
        values["wfm demo"] = f"{numbers['demo_peak_bytes'] / 2**30:.2f} GiB at its peak, {numbers['demo_seconds']:.0f} s"
    missing = f"<p class='missing'>Not measured: {text_of(numbers['demo_error'])}</p>" if numbers.get("demo_error") else ""
    return facts(values) + missing


def _settings(report: Mapping[str, Any]) -> str:
    groups = {"settings": report["settings"], "versions": report["versions"], "machine": report["machine"]}
    tables = ""
    for name, values in groups.items():
        rows = "".join(f"<tr><td>{text_of(k)}</td><td>{text_of(v)}</td></tr>" for k, v in values.items())
        tables += f"<div><h3>{name}</h3><table>{rows}</table></div>"
    return f"<section id='settings'><h2>How it was run</h2><div class='columns'>{tables}</div></section>"


def _sheet(sheet: Sheet, fps: float) -> str:
    num_frames = len(sheet.rows[0][1])
    shown = np.linspace(0, num_frames - 1, min(9, num_frames)).round().astype(int)
    lines = "".join(
        f"<div class='strip'><span>{text_of(label)}</span><img alt='{text_of(label)}' src='{_png(_strip(frames[shown]))}'></div>"
        for label, frames in sheet.rows
    )
    ticks = "".join(f"<i>{t}</i>" for t in shown)
    video = _mp4(np.concatenate([frames for _, frames in sheet.rows], axis=2), sheet.fps or fps)
    kind = {"best": "aim", "typical": "bar"}.get(sheet.mark.partition(" ")[0].strip(":"), "no")
    mark = f"<span class='chip {kind}'>{text_of(sheet.mark)}</span> " if sheet.mark else ""
    return (
        f"<div class='sheet'><h3>{mark}{text_of(sheet.title)}</h3><p>{text_of(sheet.note)}</p>{lines}"
        f"<div class='strip ticks'><span>frame</span><div>{ticks}</div></div>"
        f"<details><summary>play: {text_of(', '.join(label for label, _ in sheet.rows))}</summary>"
        f"<video controls loop muted src='{video}'></video></details></div>"
    )


def _strip(frames_THWC: np.ndarray) -> np.ndarray:
    """Frames beside each other with a white gap: uint8 [H, n * (W + GAP) - GAP, 3]."""
    padded = np.pad(frames_THWC, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-GAP]


def _png(image_HWC: np.ndarray) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "strip.png"
        write_image(path, image_HWC)
        return _data("image/png", path)


def _mp4(frames_THWC: np.ndarray, fps: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, frames_THWC, fps, sync=False)
        return _data("video/mp4", path)


def _data(kind: str, path: Path) -> str:
    """The file at `path` as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


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
