"""The page of `wfm data stats`: one HTML file with its plots and pictures inside, no scripts, no network."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from wfm_ar.data.stats import ChannelStats, DataStats
from wfm_ar.evaluate.report import STYLE

INK, BLUE, RED, GRID = "#1c2430", "#2563eb", "#e4572e", "#e4e8ee"
MOST_WORDS, MOST_TEXTS = 40, 25


def render_page(stats: DataStats, sheet_png: bytes | None) -> str:
    """The whole HTML text; `sheet_png` is a contact sheet of some episodes."""
    seconds = np.array(stats.seconds)
    facts = {
        "episodes": f"{len(stats.frames):,} ({', '.join(f'{count:,} {name}' for name, count in sorted(stats.splits.items()))})",
        "frames": f"{sum(stats.frames):,}",
        "time": f"{seconds.sum() / 3600:.2f} h" if seconds.sum() >= 3600 else f"{seconds.sum() / 60:.1f} min",
        "an episode": f"{np.median(seconds):.1f} s ({seconds.min():.1f} to {seconds.max():.1f})",
        "with text": f"{stats.with_text:,}, {len(stats.texts):,} distinct",
        "with actions": f"{stats.with_actions:,}",
        "with state": f"{stats.with_state:,}",
        "format": _escaped(stats.format),
    }
    parts = [f"<header><p class='eyebrow'>wfm-ar data set</p><h1>{_escaped(stats.path)}</h1></header><section>{_facts(facts)}"]
    if stats.notes:
        parts.append("<h3>Worth a look</h3><ul>" + "".join(f"<li>{_escaped(note)}</li>" for note in stats.notes) + "</ul>")
    parts.append("</section>")
    if sheet_png:
        parts.append(f"<section><h2>Samples</h2>{_image('image/png', sheet_png, 'sample frames', 'samples')}</section>")
    rates = {f"{rate:g} frames/s": count for rate, count in stats.rates.items()}
    sizes = {f"{width} x {height}": count for (height, width), count in stats.sizes.items()}
    figures = [
        (_plot(lambda axes: _histogram(axes, stats.frames, "frames")), "Length of the episodes, frames."),
        (_plot(lambda axes: _histogram(axes, stats.seconds, "seconds")), "Length of the episodes, seconds."),
        (_plot(lambda axes: _bars(axes, rates, "episodes"), _bars_height(rates)), "Frame rates."),
        (_plot(lambda axes: _bars(axes, sizes, "episodes"), _bars_height(sizes)), "Picture sizes, width x height in pixels."),
    ]
    parts.append(f"<section><h2>Clips</h2>{_figures(figures)}</section>")
    parts.append(f"<section><h2>Text</h2>{_texts(stats)}</section>")
    parts.append(f"<section><h2>Actions</h2>{_actions(stats.channels)}</section>")
    body = "\n".join(parts)
    style = STYLE + ".samples { width: 100%; } ul { margin: 6px 0 0; padding-left: 20px; }"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_escaped(stats.path)}: data</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _texts(stats: DataStats) -> str:
    if not stats.texts:
        return "<p class='missing'>No episode has a text.</p>"
    words = dict(list(stats.words.items())[:MOST_WORDS])
    figure = _plot(lambda axes: _bars(axes, words, "occurrences"), _bars_height(words))
    lengths = [len(text.split()) for text, count in stats.texts.items() for _ in range(count)]
    figures = [
        (figure, f"The {len(words)} most frequent of {len(stats.words):,} words."),
        (_plot(lambda axes: _histogram(axes, lengths, "words a text")), "Length of the texts, words."),
    ]
    rows = "".join(
        f"<tr><td>{_escaped(text[:200])}</td><td class='n'>{count:,}</td></tr>" for text, count in list(stats.texts.items())[:MOST_TEXTS]
    )
    left = len(stats.texts) - MOST_TEXTS
    more = f"<p class='lead'>and {left:,} more</p>" if left > 0 else ""
    return f"{_figures(figures)}<div class='scroll'><table><tr><th>text</th><th class='n'>episodes</th></tr>{rows}</table></div>{more}"


def _actions(channels: tuple[ChannelStats, ...]) -> str:
    if not channels:
        return "<p class='missing'>No episode has actions.</p>"
    rows, figures = "", []
    for channel in channels:
        name = (f"{channel.robot}: " if channel.robot else "") + channel.name
        numbers = (channel.low, channel.high, channel.minimum, channel.maximum, channel.mean, channel.std)
        cells = "".join(f"<td class='n'>{number:.4g}</td>" for number in numbers)
        rows += (
            f"<tr><td>{_escaped(name)}</td><td>{_escaped(channel.unit)}</td>{cells}<td class='n'>{100 * channel.clipped:.2f} %</td></tr>"
        )
        figures.append((_plot(lambda axes, channel=channel: _channel(axes, channel), 1.9), f"{name}, {channel.count:,} values."))
    heads = "".join(f"<th class='n'>{head}</th>" for head in ("low", "high", "smallest", "largest", "mean", "std", "clipped"))
    table = f"<div class='scroll'><table><tr><th>channel</th><th>unit</th>{heads}</tr>{rows}</table></div>"
    lead = "<p class='lead'>Dashed: the range of the schema; values beyond it are clipped. The counts are on a logarithmic scale.</p>"
    return lead + table + _figures(figures)


def _histogram(axes: Axes, values: Any, label: str) -> None:
    values = np.asarray(values, float)
    axes.hist(values, bins=min(40, max(1, len(np.unique(values)))), color=BLUE, alpha=0.75)
    axes.set_xlabel(label)
    axes.set_ylabel("episodes")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _bars(axes: Axes, counts: Mapping[str, int], label: str) -> None:
    names = [name[:40].replace("$", r"\$") for name in counts]
    axes.barh(range(len(counts)), list(counts.values()), color=BLUE, alpha=0.75, height=0.7)
    axes.set_yticks(range(len(counts)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel(label)


def _bars_height(counts: Mapping[str, int]) -> float:
    return 0.9 + 0.19 * len(counts)


def _channel(axes: Axes, channel: ChannelStats) -> None:
    edges = np.array(channel.edges)
    axes.stairs(channel.counts, edges, fill=True, color=BLUE, alpha=0.75)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    for limit in (channel.low, channel.high):
        axes.axvline(limit, color=RED, linewidth=1, linestyle="--")
    axes.set_xlabel(f"{channel.unit} a step".strip() if channel.unit else "value")
    axes.set_ylabel("steps")


def _plot(draw: Callable[[Axes], None], height: float = 2.4) -> str:
    figure = Figure(figsize=(5.6, height), layout="constrained", facecolor="none")  # no pyplot: no global state, no display
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8, length=3, color="#aab3c0")
    draw(axes)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
    for text in figure.findobj(Text):  # units and names are words, not TeX, whatever signs stand in them
        text.set_parse_math(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figures(figures: list[tuple[str, str]]) -> str:
    parts = [
        f"<figure>{_image('image/svg+xml', svg.encode(), caption, '')}<figcaption>{_escaped(caption)}</figcaption></figure>"
        for svg, caption in figures
    ]
    return f"<div class='figures'>{''.join(parts)}</div>"


def _image(kind: str, content: bytes, alt: str, name: str) -> str:
    # as a data: address, so that ids of two SVGs in one page cannot meet
    return f'<img class="{name}" alt="{_escaped(alt)}" src="data:{kind};base64,{base64.b64encode(content).decode()}">'


def _facts(values: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<div><dt>{_escaped(k)}</dt><dd>{v}</dd></div>" for k, v in values.items()) + "</dl>"


def _escaped(value: object) -> str:
    return html.escape(str(value))
