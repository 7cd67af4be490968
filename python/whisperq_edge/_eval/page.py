"""The results as one HTML file: no script, nothing from the network, readable on a phone, dark where the system is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .plots import difference_plot, layer_plot, size_plot, stage_plot
from .report import ACCURACY_HEADER, COMPARISON_HEADER, SPEED_HEADER, accuracy_rows, comparison_rows, speed_rows

__all__ = ["render_page"]

# The colours of Okabe and Ito, which colour-blind readers can tell apart; the black one gives way to grey.
_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #ffffff; --soft: #5b6570; --rule: #d5dae0; --box: #f4f6f8;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00; --c5: #56b4e9; --c6: #8a8f00;
  --c7: #6e7681; --c8: #7b4fc9; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --page: #14171a; --soft: #9aa4af; --rule: #363c43;
  --box: #1e2328; --c0: #4aa8e0; --c1: #f07f2f; --c2: #2cc295; --c3: #e39bc4; --c4: #f0b429;
  --c5: #8fd0f5; --c6: #c8cc3a; --c7: #9aa4af; --c8: #b79cf0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { background: var(--box); border-left: 4px solid var(--c0); padding: .75rem 1rem; margin: 1rem 0; }
.verdict p { margin: .25rem 0; } .soft, figcaption { color: var(--soft); font-size: .875rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .4rem; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; font-weight: 600; } .left td { text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; min-width: 0; } svg { display: block; width: 100%; height: auto; max-width: 34rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--text); paint-order: stroke; stroke: var(--page);
  stroke-width: 3px; }
.axis { stroke: var(--soft); } .grid { stroke: var(--rule); } .bar { stroke-width: 2; }
code { font-size: .875em; } details { margin: .5rem 0; } summary { cursor: pointer; padding: .35rem 0; }
del { color: var(--soft); }
@media (max-width: 44rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--rule); }
  th, td, .left td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0;
    text-align: right; }
  td::before { content: attr(data-label); color: var(--soft); font-weight: 400; text-align: left; flex: none; }
  td:first-child::before { content: none; } td:first-child { font-size: 1rem; }
}
"""


def render_page(report: Mapping[str, Any]) -> str:
    """The page of a report of :func:`~whisperq_edge._eval.report.make_report`."""
    data = report["data"]
    speakers = f", {data['speakers']} speakers" if data["speakers"] else ""
    set_line = (
        f"{data['path']}: {data['utterances']} utterances, {data['words']} words, {data['audio_s']:.0f} s{speakers}"
    )
    body = [
        "<h1>Word error rates</h1>",
        f"<p>{escape(set_line)}</p>",
        _verdicts(report),
        "<h2>Systems</h2>",
        _table(ACCURACY_HEADER, accuracy_rows(report)),
        '<p class="soft">S, D, I: substitutions, deletions, insertions.</p>',
        _table(SPEED_HEADER, speed_rows(report)),
        '<p class="soft">RTF: seconds of work per second of audio. p50, p95: of the times of the utterances.</p>',
        *_comparisons(report),
        _figures(report),
        "<h2>What was misheard</h2>",
        *[_misheard(each) for each in report["systems"]],
        _colophon(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Word error rates: {escape(', '.join(each['name'] for each in report['systems']))}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _verdicts(report: Mapping[str, Any]) -> str:
    lines = [f"<strong>{escape(report['verdict'])}</strong>", *(escape(c["verdict"]) for c in report["comparisons"])]
    can_show = f'<p class="soft">{escape(data_can_show(report))}</p>'
    return f'<div class="verdict">{"".join(f"<p>{line}</p>" for line in lines)}{can_show}</div>'


def data_can_show(report: Mapping[str, Any]) -> str:
    return str(report["data"]["can_show"]["in_words"])


def _comparisons(report: Mapping[str, Any]) -> list[str]:
    if not report["comparisons"]:
        return []
    header = [name.format(baseline=report["baseline"]) for name in COMPARISON_HEADER]
    how = (
        "Intervals: bootstrap, utterances (speakers) drawn anew. p: paired permutation test by utterance, two-sided,"
        " exact; corrected for the number of comparisons by Holm's method. changed: utterances with another number of"
        " errors."
    )
    return [
        f"<h2>Against {escape(report['baseline'])}</h2>",
        _table(header, comparison_rows(report)),
        f'<p class="soft">{how}</p>',
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], css: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = []
    for row in rows:
        cells = (f'<td data-label="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(header, row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _figures(report: Mapping[str, Any]) -> str:
    systems = report["systems"]
    drawn = [(size_plot(systems), "Size against word error rate. Bars: 95 % intervals by utterance.")]
    if report["comparisons"]:
        differences = difference_plot(report["comparisons"], report["baseline"])
        drawn.append((differences, f"Differences from {report['baseline']}: the same words, so narrower than above."))
    drawn.append((stage_plot(systems, report["data"]["utterances"]), "Where the time of a mean utterance went."))
    layers = layer_plot(systems)
    if layers is not None:
        drawn.append(
            (
                layers,
                "Error of the weights by layer: signal to quantisation noise, mean of its matrices; higher is better.",
            )
        )
    figures = (f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in drawn)
    return f'<h2>Pictures</h2><div class="figures">{"".join(figures)}</div>'


def _misheard(system: Mapping[str, Any]) -> str:
    confusions = [(c["said"] or "(nothing)", c["heard"] or "(nothing)", str(c["count"])) for c in system["confusions"]]
    worst = [(w["id"], f"{w['errors']} of {w['words']}", w["reference"], w["hypothesis"]) for w in system["worst"]]
    return (
        f"<details><summary>{escape(system['name'])}: {system['errors']} errors</summary>"
        + _table(("reference", "transcript", "times"), confusions, "left")
        + _table(("utterance", "errors", "reference", "transcript"), worst, "left")
        + "</details>"
    )


def _colophon(report: Mapping[str, Any]) -> str:
    settings, machine = report["settings"], report["machine"]
    facts = [
        ("command", report.get("command", "")),
        ("date", report["date"]),
        ("machine", f"{machine['cpu']}, {machine['system']}, {settings['threads']} threads"),
        ("versions", f"whisperq-edge {settings['whisperq_edge']}, whisper.cpp {settings['whisper_cpp']}"),
        ("options", ", ".join(f"{name}={value}" for name, value in settings["options"].items()) or "defaults"),
        ("text", f"normaliser {report.get('normaliser', '')}"),
    ]
    lines = "".join(
        f"<p><strong>{escape(name)}</strong> <code>{escape(str(value))}</code></p>" for name, value in facts
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in report["notes"])
    return f'<h2>How it was measured</h2><div class="soft">{notes}{lines}</div>'
