"""The verdict on top of report.html, and the tables that it rests on."""

from collections.abc import Mapping
from typing import Any

from wfm_ar.evaluate.html_parts import facts, text_of

TITLES = {"good_for": "Good for", "not_good_for": "Not good for", "next": "Do next"}


def verdict_html(verdict: Mapping[str, list[str]] | None) -> str:
    if verdict is None:
        return ""
    alarms = "".join(f"<p><span class='chip no'>alarm</span> <b>{text_of(line)}</b></p>" for line in verdict["alarms"])
    lists = "".join(
        f"<h3>{title}</h3><ul>{''.join(f'<li>{text_of(line)}</li>' for line in verdict[name])}</ul>"
        for name, title in TITLES.items()
        if verdict[name]
    )
    return f"<section id='verdict'><h2>Verdict</h2>{alarms}{lists}</section>"


def listening_html(numbers: Mapping[str, Any]) -> str:
    head = "".join(f"<th class='n'>frame {frame}</th>" for frame in numbers["horizons"])
    lines = ""
    for kind, loss in numbers["loss"].items():
        cells = "".join(f"<td class='n'>{value:.2f}</td>" for value in numbers["psnr"][kind])
        lines += f"<tr><td>{kind}</td><td class='n'>{loss:.2f}</td>{cells}</tr>"
    table = f"<div class='scroll'><table><tr><th>actions given</th><th class='n'>nats a latent</th>{head}</tr>{lines}</table></div>"
    gaps = {}
    for kind in numbers["loss_gap"]:
        gaps[f"{kind} costs more than true, nats a latent"] = _interval(numbers["loss_gap"][kind])
        gaps[f"true is nearer than {kind}, dB"] = _interval(numbers["psnr_gap"][kind])
        gaps[f"true looks nearer than {kind}, perceptual distance"] = _interval(numbers["distance_gap"][kind], 4)
    return facts(gaps) + table


def read_back_html(numbers: Mapping[str, Any]) -> str:
    names = {"r": "rollouts", "ceiling": "true clips", "r_moving": "rollouts, moving", "ceiling_moving": "true clips, moving"}
    names |= {"r_shuffled": "rollouts under other clips' actions"}
    head = "".join(f"<th class='n'>{title}</th>" for title in names.values())
    lines = ""
    for channel, row in numbers["channels"].items():
        lines += f"<tr><td>{text_of(channel)}</td>" + "".join(f"<td class='n'>{row.get(key, 0.0):.2f}</td>" for key in names) + "</tr>"
    note = f"<p>{numbers['steps']} steps of {numbers['clips']} clips, {numbers['moving_steps']} of them moving.</p>"
    return f"<div class='scroll'><table><tr><th>channel, r</th>{head}</tr>{lines}</table></div>{note}"


def reality_html(numbers: Mapping[str, Any]) -> str:
    apart = numbers["codes_apart_true"]
    return facts(
        {
            "colour off at the end": f"{numbers['colour']:.1f} grey levels",
            "sharpness at the end": f"{100 * numbers['sharpness']:.0f} % of the truth's",
            "motion": "-" if numbers["motion"] is None else f"{100 * numbers['motion']:.0f} % of the truth's",
            "codes apart at the end": f"{numbers['codes_apart']:.2f}"
            + ("" if apart is None else f", two halves of true clips {apart:.2f}"),
        }
    )


def text_choice_html(numbers: Mapping[str, Any]) -> str:
    return facts(
        {
            "right text the likeliest": _interval(numbers["right"]),
            "chance": f"{numbers['chance']:.2f}",
            "wrong texts cost more, nats a latent": _interval(numbers["gap"]),
            "clips": f"{numbers['clips']}, {numbers['texts']} texts",
        }
    )


def _interval(numbers: list[float], digits: int = 2) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in numbers)
    return f"{mean} ({low} to {high})"
