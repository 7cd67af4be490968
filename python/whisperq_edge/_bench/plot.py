"""Stacked stages as a picture. matplotlib is an extra and imported when a picture is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import OptionError
from .._system.files import atomic_write
from .._system.matplotlib import load_matplotlib
from .report import STAGE_LABELS

__all__ = ["draw_stages"]

_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb")


def draw_stages(report: Mapping[str, Any], path: Path) -> None:
    """A bar for each system: the medians of its stages end to end, and the interval of its total.

    Args:
        report: of ``make_report``.
        path: a file that ends in ``.png`` (or ``.svg``, ``.pdf``).

    Raises:
        OptionError: matplotlib is not installed, or it does not know such files.
        OSError: the file cannot be written.
    """
    systems = report["systems"][::-1]  # the first one on top
    figure = load_matplotlib().Figure(figsize=(8, 1.5 + 0.45 * len(systems)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    ends = [0.0] * len(systems)
    labels = [label for label in STAGE_LABELS if label not in ("Load", "Total")]
    for label, colour in zip(labels, _COLOURS):
        ms = [each["stages"].get(label, {"value": 0.0})["value"] for each in systems]
        if any(ms):
            axes.barh(range(len(systems)), ms, left=ends, color=colour, label=label)
        ends = [end + value for end, value in zip(ends, ms)]
    totals = [each["total_ms"]["value"] for each in systems]
    rest = [max(total - end, 0.0) for total, end in zip(totals, ends)]
    axes.barh(range(len(systems)), rest, left=ends, color=_COLOURS[-1], label="not told apart")
    for i, each in enumerate(systems):
        span = each["total_ms"]
        if span["low"] is not None:
            axes.plot([span["low"], span["high"]], [i, i], color="black", linewidth=1.2, marker="|")
    axes.set_yticks(range(len(systems)), [each["name"] for each in systems])
    axes.set_xlabel(f"ms for {report['settings']['audio_s']:.1f} s of audio; black: 95 % interval of the total")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise OptionError("plot", str(path), "a file that ends in .png, .svg or .pdf")
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format=kind)
