"""The report's sections as tables and figures: tokenizer, prediction, rollouts, action and text following, speed."""

from collections.abc import Mapping
from typing import Any

from wfm_ar.evaluate import plots
from wfm_ar.evaluate.control import DRIVES, MOVED, STEP
from wfm_ar.evaluate.html_parts import by_robot, facts, figures, share, text_of
from wfm_ar.evaluate.object_tables import text_sources_html
from wfm_ar.evaluate.quality import REFINED


def tokenizer_html(numbers: Mapping[str, Any]) -> str:
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


def prediction_html(numbers: Mapping[str, Any]) -> str:
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


def rollout_html(numbers: Mapping[str, Any]) -> str:
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


def refined_html(numbers: Mapping[str, Any]) -> str:
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


def actions_html(numbers: Mapping[str, Any]) -> str:
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


def text_html(numbers: Mapping[str, Any]) -> str:
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


def speed_html(numbers: Mapping[str, Any]) -> str:
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
