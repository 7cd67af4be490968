"""The table as a picture. matplotlib is an extra and imported when a picture is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import OptionError
from .._system.files import atomic_write
from .._system.matplotlib import load_matplotlib

__all__ = ["draw_study"]

_COLOURS = ("#222222", "#4477aa", "#228833", "#cc6677", "#aa3377", "#ccbb44")
_MARKERS = ("o", "s", "^", "v", "D", "P")


def draw_study(report: Mapping[str, Any], path: Path) -> None:
    """A line for each row: the encoder's SQNR on the left; on the right, where words were counted, the word error rate
    in every condition with its interval.

    Args:
        report: of ``make_report``.
        path: a file that ends in ``.png`` (or ``.svg``, ``.pdf``).

    Raises:
        OptionError: matplotlib is not installed, or it does not know such files.
        OSError: the file cannot be written.
    """
    rows, conditions = report["rows"][::-1], report["conditions"]  # the first one on top
    n_panels = 2 if report["data"] else 1
    size = (5.5 * n_panels, 1.6 + 0.34 * len(rows))
    figure = load_matplotlib().Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
    for i, condition in enumerate(conditions):
        style = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 4.5}
        _draw_sqnr(panels[0], rows, condition, _shift(i, len(conditions)), style)
        if report["data"]:
            _draw_words(panels[1], rows, condition, _shift(i, len(conditions)), style)
    labels = [f"{each['name']}  ({each['bits_per_weight']:.2f} bits)" for each in rows]
    panels[0].set_yticks(range(len(rows)), labels, fontsize=8)
    panels[0].set_xlabel("SQNR of the encoder's output, dB")
    if report["data"]:
        panels[1].set_xlabel("word error rate, %, with 95 % intervals")
    for panel in panels:
        panel.grid(axis="both", color="0.92")
        panel.set_axisbelow(True)
    if len(conditions) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(conditions), frameon=False, fontsize=8)
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise OptionError("plot", str(path), "a file that ends in .png, .svg or .pdf")
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format=kind)


def _shift(i: int, n: int) -> float:
    """Conditions of a row stand above each other."""
    return (0.5 * (n - 1) - i) * 0.7 / max(n, 1)


def _draw_sqnr(panel: Any, rows: Any, condition: str, shift: float, style: dict[str, Any]) -> None:
    found = [(y, each["encoder"][condition]["recording"]) for y, each in enumerate(rows)]
    known = [(y, each) for y, each in found if each is not None]  # the float model has no noise
    means = [each["mean"] for _, each in known]
    lows = [each["mean"] - (each["mean"] if each["low"] is None else each["low"]) for _, each in known]
    highs = [(each["mean"] if each["high"] is None else each["high"]) - each["mean"] for _, each in known]
    panel.errorbar(
        *(means, [y + shift for y, _ in known]),
        xerr=[lows, highs],
        linestyle="none",
        linewidth=1,
        label=condition,
        **style,
    )


def _draw_words(panel: Any, rows: Any, condition: str, shift: float, style: dict[str, Any]) -> None:
    wers = [each["heard"][condition]["wer"] for each in rows]
    rates = [100 * each["rate"] for each in wers]
    lows = [max(100 * (each["rate"] - each["interval"][0]), 0.0) for each in wers]
    highs = [max(100 * (each["interval"][1] - each["rate"]), 0.0) for each in wers]
    places = [y + shift for y in range(len(rows))]
    panel.errorbar(rates, places, xerr=[lows, highs], linestyle="none", linewidth=1, **style)
    panel.axvline(rates[-1], color=style["color"], linewidth=0.7, linestyle=":")
