"""Pictures as SVG text, drawn by ourselves so that the page needs nothing from anywhere.

Each is 360 units wide: on a phone a unit is a pixel, and text stays readable. Colours are the page's variables ``--c0``
to ``--c8``, lines and letters its text colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Callable, Optional

__all__ = ["COLOURS", "difference_plot", "layer_plot", "size_plot", "stage_plot"]

COLOURS = 9
WIDTH = 360
_LEFT, _RIGHT, _TOP = 40, 12, 12
_CHARACTER = 6.2  # about as wide as a letter of the 11 px font

_STAGES = ("audio_decode", "vad", "mel", "encode", "prompt", "decode", "batchd", "sample", "other")


def _colour(index: int) -> str:
    return f"var(--c{index % COLOURS})"


def _text(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str = "axis", extra: str = "") -> str:
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{extra}/>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    span = max(high - low, 1e-9)
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}" if value else "0"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = max(high - low, 1e-12)
    return lambda value: start + (value - low) / span * (end - start)


def _legend(names: Sequence[str], top: float, colours: Optional[Sequence[int]] = None) -> tuple[list[str], float]:
    """Coloured squares with names in as many lines as they need, and where the lines end."""
    parts, x, y = [], float(_LEFT), top
    for i, name in enumerate(names):
        shown = name if len(name) <= 40 else name[:39] + "…"
        width = 18 + _CHARACTER * len(shown)
        if x > _LEFT and x + width > WIDTH - _RIGHT:
            x, y = float(_LEFT), y + 17
        colour = _colour(colours[i] if colours else i)
        parts.append(f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 14, y, shown))
        x += width + 8
    return parts, y + 8


def size_plot(systems: Sequence[Mapping[str, Any]]) -> str:
    """Size of the file against the word error rate, with the interval as a bar."""
    sizes = [each["bytes"] / 1e6 for each in systems]
    rates = [100 * each["wer"]["rate"] for each in systems]
    spans = [[100 * end for end in each["wer"]["interval"]] for each in systems]
    pad = 0.08 * (max(sizes) - min(sizes)) or max(sizes) * 0.1
    high = max(max(end for _, end in spans), 0.1) * 1.05
    bottom = 210.0
    x = _scale(min(sizes) - pad, max(sizes) + pad, _LEFT, WIDTH - _RIGHT)
    y = _scale(0.0, high, bottom, _TOP)
    parts = []
    for tick in _ticks(0, high):
        parts += [
            _line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid"),
            _text(_LEFT - 5, y(tick) + 4, _number(tick), "end"),
        ]
    for tick in _ticks(min(sizes) - pad, max(sizes) + pad):
        parts += [_line(x(tick), bottom, x(tick), bottom + 4), _text(x(tick), bottom + 16, _number(tick), "middle")]
    parts += [_line(_LEFT, bottom, WIDTH - _RIGHT, bottom), _text(WIDTH - _RIGHT, bottom + 31, "MB", "end")]
    parts.append(_text(4, _TOP - 1, "WER %"))
    for i, (size, rate, (low, top)) in enumerate(zip(sizes, rates, spans)):
        colour = f' style="stroke:{_colour(i)}"'
        parts += [_line(x(size), y(low), x(size), y(top), "bar", colour)]
        parts += [_line(x(size) - 4, y(end), x(size) + 4, y(end), "bar", colour) for end in (low, top)]
        parts.append(f'<circle cx="{x(size):.1f}" cy="{y(rate):.1f}" r="4.5" fill="{_colour(i)}"/>')
    legend, end = _legend([each["name"] for each in systems], bottom + 50)
    return _svg(end, "Size of the file against word error rate with 95 % intervals", parts + legend)


def difference_plot(comparisons: Sequence[Mapping[str, Any]], baseline: str) -> str:
    """The differences from the baseline with their intervals, and the line of no difference."""
    spans = [[100 * end for end in each["interval"]] for each in comparisons]
    low, high = min(0.0, *(a for a, _ in spans)), max(0.0, *(b for _, b in spans))
    pad = 0.05 * (high - low) or 1.0
    x = _scale(low - pad, high + pad, _LEFT, WIDTH - _RIGHT)
    row, bottom = 36, _TOP + 36 * len(spans)
    parts = [
        part
        for tick in _ticks(low - pad, high + pad)
        for part in (
            _line(x(tick), _TOP, x(tick), bottom, "grid"),
            _text(x(tick), bottom + 14, _number(tick), "middle"),
        )
    ]
    parts.append(_line(x(0), _TOP, x(0), bottom))
    for i, (each, (start, end)) in enumerate(zip(comparisons, spans)):
        y, point = _TOP + row * i + 25, x(100 * each["difference"])
        colour = f' style="stroke:{_colour(0 if not each["is_claimed"] else 1)}"'
        parts.append(_text(_LEFT, y - 9, each["name"]))
        parts.append(_line(x(start), y, x(end), y, "bar", colour))
        parts.append(
            f'<circle cx="{point:.1f}" cy="{y}" r="4.5" fill="{_colour(0 if not each["is_claimed"] else 1)}"/>'
        )
    parts.append(_text(WIDTH - _RIGHT, bottom + 29, f"points of WER more than {baseline}", "end"))
    legend, end = _legend(("no difference can be claimed", "differs"), bottom + 48)
    return _svg(end, f"Differences from {baseline} with 95 % intervals", parts + legend)


def stage_plot(systems: Sequence[Mapping[str, Any]], n_utterances: int) -> str:
    """Milliseconds of each stage of a mean utterance, end to end."""
    rows = [[each["stages"].get(name, {"ms": 0.0})["ms"] / n_utterances for name in _STAGES] for each in systems]
    shown = [i for i, _ in enumerate(_STAGES) if any(row[i] > 0 for row in rows)]
    high = max(max(map(sum, rows)), 1e-6)
    x = _scale(0, high, _LEFT, WIDTH - _RIGHT)
    row_height, bottom = 38, _TOP + 38 * len(rows)
    parts = []
    for tick in _ticks(0, high):
        parts += [_line(x(tick), _TOP, x(tick), bottom, "grid"), _text(x(tick), bottom + 14, _number(tick), "middle")]
    for i, (each, row) in enumerate(zip(systems, rows)):
        y, start = _TOP + row_height * i + 16, 0.0
        parts.append(_text(_LEFT, y - 4, f"{each['name']}  {sum(row):.0f} ms"))
        for j in shown:
            width = x(start + row[j]) - x(start)
            name = f"{_STAGES[j]} {row[j]:.1f} ms"
            parts.append(
                f'<rect x="{x(start):.1f}" y="{y}" width="{width:.2f}" height="16" fill="{_colour(j)}">'
                f"<title>{name}</title></rect>"
            )
            start += row[j]
    parts.append(_text(WIDTH - _RIGHT, bottom + 29, "ms per utterance", "end"))
    legend, end = _legend([_STAGES[j] for j in shown], bottom + 48, shown)
    return _svg(end, "Time of each stage per utterance", parts + legend)


def layer_plot(systems: Sequence[Mapping[str, Any]]) -> Optional[str]:
    """Signal to quantisation noise of the weights, layer by layer; None where no report lies beside a model."""
    drawn = [(i, each) for i, each in enumerate(systems) if each["layers"]]
    if not drawn:
        return None
    layers = list(dict.fromkeys(row["layer"] for _, each in drawn for row in each["layers"]))
    values = [row["mean_sqnr_db"] for _, each in drawn for row in each["layers"]]
    low, high = math.floor(min(values) / 5) * 5.0, math.ceil(max(values) / 5) * 5.0
    high = max(high, low + 5)
    bottom = 200.0
    x = _scale(0, max(len(layers) - 1, 1), _LEFT + 8, WIDTH - _RIGHT - 8)
    y = _scale(low, high, bottom, _TOP)
    parts = []
    for tick in _ticks(low, high):
        parts += [
            _line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid"),
            _text(_LEFT - 5, y(tick) + 4, _number(tick), "end"),
        ]
    parts += [_line(_LEFT, bottom, WIDTH - _RIGHT, bottom), _text(4, _TOP - 1, "dB")]
    for i, layer in enumerate(layers):
        turned = f' transform="rotate(-60 {x(i) + 3:.1f} {bottom + 12:.1f})"'
        parts.append(_text(x(i) + 3, bottom + 12, layer if len(layer) <= 12 else layer[:11] + "…", "end", turned))
    for i, each in drawn:
        points = [(x(layers.index(row["layer"])), y(row["mean_sqnr_db"])) for row in each["layers"]]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_colour(i)}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{_colour(i)}"/>' for a, b in points]
    legend, end = _legend([each["name"] for _, each in drawn], bottom + 88, [i for i, _ in drawn])
    return _svg(end, "Signal to quantisation noise of the weights by layer", parts + legend)
