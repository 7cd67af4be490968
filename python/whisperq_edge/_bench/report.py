"""The results as data and as rows of tables, and a run against an earlier one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from .._errors import OptionError
from .._system.markdown import markdown_table
from .card import card_differences
from .run import Measured, SystemRounds
from .statistics import (
    CONFIDENCE,
    Estimate,
    fastest_of_blocks,
    least_rounds,
    median_of,
    ratio_of_pairs,
    ratio_of_runs,
)

__all__ = [
    "STAGE_LABELS",
    "SUMMARY_HEADER",
    "Change",
    "card_line",
    "check_comparable",
    "compare_reports",
    "load_report",
    "make_report",
    "markdown",
    "rounds_to_judge",
    "settings_line",
    "stage_tables",
    "summary_rows",
]

_FORMAT, _VERSION = "whisperq_edge_bench", 2

STAGE_LABELS = {
    "Load": "load",
    "Mel": "mel",
    "Sample": "sample",
    "Encode": "encode",
    "Decode": "decode",
    "Batchd": "batchd",
    "Prompt": "prompt",
    "Total": "total",
}
"""The rows of arXiv 2503.09905's tables, in their order and wording, and our stages."""

SUMMARY_HEADER = (
    *("system", "threads", "Total ms", "95 %", "x first", "95 % of x", "RTF", "tokens", "tokens/s"),
    *("load ms", "model MB", "peak MB"),
)
_BESIDE_THE_FIRST = 3
_MUCH_STEAL_PERCENT = 2.0
_BLOCKS = 10
_DECODING = ("prompt", "decode", "batchd", "sample")


# ---- A report --------------------------------------------------------------------------------------------------------


def make_report(
    measured: Measured,
    *,
    card: Mapping[str, Any],
    settings: Mapping[str, Any],
    skipped: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> dict[str, Any]:
    """Everything that was measured and what follows from it, ready for JSON.

    Args:
        measured: of ``run.measure``.
        card: of ``card.machine_card``.
        settings: what was asked for; ``audio_s``, ``n_tokens`` and ``rounds`` are read.
        skipped: peers that are left out, with the reason.
        command: that makes it again.
    """
    first = measured.systems[0].total_ms
    return {
        _FORMAT: _VERSION,
        "command": command,
        "card": dict(card),
        "conditions": measured.conditions,
        "settings": dict(settings),
        "systems": [_system(each, first, settings) for each in measured.systems],
        "yardstick_ms": [round(ms, 3) for ms in measured.yardstick.total_ms],
        "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
        "notes": _notes(measured, settings),
    }


def _system(run: SystemRounds, first: Sequence[float], settings: Mapping[str, Any]) -> dict[str, Any]:
    assert run.system is not None
    system, total = run.system, median_of(run.total_ms)
    audio_s, n_tokens = float(settings["audio_s"]), int(run.rounds[0]["n_tokens"])
    return {
        "name": system.name,
        "kind": system.kind,
        "version": system.version,
        "engine": run.rounds[0].get("engine", system.engine),
        "type": system.type,
        "threads": system.n_threads,
        "shape": system.shape,
        "bytes": system.n_bytes,
        "peak_rss_bytes": run.peak_rss_bytes,
        "load_ms": run.load_ms,
        "n_tokens": n_tokens,
        "stages": _stages(run),
        "total_ms": _estimate(total),
        "ratio_to_first": _estimate(ratio_of_pairs(run.total_ms, first)),
        "rtf": _estimate(median_of([ms / 1000 / audio_s for ms in run.total_ms])),
        "tokens_per_s": _tokens_per_s(run),
        "rounds": [
            {"total_ms": round(each["total_ms"], 3), "stages": {k: round(v[0], 3) for k, v in each["stages"].items()}}
            for each in run.rounds
        ],
    }


def _stages(run: SystemRounds) -> dict[str, dict[str, Any]]:
    """By the paper's label: the median of ms with its interval, runs in one round, ms a run. Of a peer with a
    transcription of its own only Load and Total are known."""
    found = {}
    for label, stage in STAGE_LABELS.items():
        if stage == "load":
            ms, runs = [run.load_ms], 1
        elif stage == "total":
            ms, runs = run.total_ms, 1
        else:
            rows = [each["stages"].get(stage, [0.0, 0]) for each in run.rounds]
            ms, runs = [float(row[0]) for row in rows], int(np.median([row[1] for row in rows]))
        if runs:
            estimate = median_of(ms)
            found[label] = {**_estimate(estimate), "runs": runs, "ms_per_run": round(estimate.value / runs, 4)}
    return found


def _tokens_per_s(run: SystemRounds) -> Optional[dict[str, Any]]:
    """While decoding: prompt, decode, batchd and sample. None where the stages are not known."""
    spent = [sum(each["stages"].get(stage, [0.0, 0])[0] for stage in _DECODING) for each in run.rounds]
    if not all(spent):
        return None
    return _estimate(median_of([1000 * each["n_tokens"] / ms for each, ms in zip(run.rounds, spent)]))


def _estimate(estimate: Estimate) -> dict[str, Any]:
    names = ("value", "low", "high")
    return {name: None if value is None else round(value, 6) for name, value in zip(names, estimate)}


def _notes(measured: Measured, settings: Mapping[str, Any]) -> list[str]:
    notes = ["Load is once in the life of a process and not in Total, which is one transcription: samples to text."]
    steal = measured.conditions["steal_percent"]
    if steal is not None and steal > _MUCH_STEAL_PERCENT:
        notes.append(f"{steal} % of the CPU time was taken by other guests of this host: expect wide intervals.")
    counts = {each.system.name: each.rounds[0]["n_tokens"] for each in measured.systems if each.system is not None}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} {n}" for name, n in counts.items())
        notes.append(f"The systems said different numbers of tokens ({shown}): --tokens N makes them alike.")
    rounds = int(settings["rounds"])
    if median_of([1.0] * rounds).low is None:
        notes.append(f"{rounds} rounds are too few for an interval of 95 %: take 6 or more.")
    return notes


# ---- Tables ----------------------------------------------------------------------------------------------------------


def stage_tables(report: Mapping[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """(header, rows) of the stage table, the first system beside up to three others in each."""
    first, *others = report["systems"]
    groups = [others[i : i + _BESIDE_THE_FIRST] for i in range(0, len(others), _BESIDE_THE_FIRST)] or [[]]
    tables = []
    for group in groups:
        shown = [first, *group]
        header = ["Stage", *(f"{each['name']} {column}" for each in shown for column in ("ms", "runs", "ms/run"))]
        tables.append((header, [[label, *_cells(shown, label)] for label in STAGE_LABELS]))
    return tables


def _cells(systems: Sequence[Mapping[str, Any]], label: str) -> list[str]:
    cells = []
    for each in systems:
        row = each["stages"].get(label)
        cells += (
            ["-", "-", "-"] if row is None else [f"{row['value']:.2f}", str(row["runs"]), f"{row['ms_per_run']:.2f}"]
        )
    return cells


def summary_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Rows under :data:`SUMMARY_HEADER`."""
    return [
        [
            *(each["name"], str(each["threads"]), f"{each['total_ms']['value']:.1f}", _span(each["total_ms"], 1)),
            *(f"{each['ratio_to_first']['value']:.3f}", _span(each["ratio_to_first"], 3)),
            *(f"{each['rtf']['value']:.4f}", str(each["n_tokens"])),
            "-" if each["tokens_per_s"] is None else f"{each['tokens_per_s']['value']:.1f}",
            *(f"{each['load_ms']:.0f}", _megabytes(each["bytes"]), _megabytes(each["peak_rss_bytes"])),
        ]
        for each in report["systems"]
    ]


def _span(estimate: Mapping[str, Any], decimals: int) -> str:
    if estimate["low"] is None:
        return "-"
    return f"{estimate['low']:.{decimals}f} to {estimate['high']:.{decimals}f}"


def _megabytes(n_bytes: Optional[int]) -> str:
    return "-" if n_bytes is None else f"{n_bytes / 1e6:.1f}"


def card_line(report: Mapping[str, Any]) -> str:
    """The machine and what it did, in a line."""
    card, met = report["card"], report["conditions"]
    parts = [
        f"{card['cpu'] or card['family']} ({card['usable_cpus']} CPUs usable)",
        f"edge on {card['edge_isa']}",
        f"governor {card['governor'] or 'unknown'}",
        "steal unknown" if met["steal_percent"] is None else f"steal {met['steal_percent']} %",
        f"load {met['load_before']} to {met['load_after']}",
    ]
    if met["temperature_after_c"] is not None:
        parts.append(f"{met['temperature_before_c']:.0f} to {met['temperature_after_c']:.0f} °C")
    parts.append(f"whisperq-edge {card['whisperq_edge']}, whisper.cpp {card['whisper_cpp']}, Python {card['python']}")
    peers = {each["engine"]: each["version"] for each in report["systems"] if each["kind"] != "whisperq-edge"}
    parts += [f"{name} {version}" for name, version in peers.items()]
    return ", ".join(parts)


def settings_line(report: Mapping[str, Any]) -> str:
    """What was asked for, in a line."""
    settings = report["settings"]
    tokens = "as many tokens as the model says" if settings["n_tokens"] is None else f"{settings['n_tokens']} tokens"
    return (
        f"{settings['model']}, {settings['audio']} ({settings['audio_s']:.2f} s), {tokens} a window,"
        f" beam size {settings['beam_size']}; medians of {settings['rounds']} rounds in turn"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """Both tables, the machine and the command, to paste into a page."""
    parts = [f"{settings_line(report)}. {card_line(report)}."]
    parts += [markdown_table(header, rows, right=True) for header, rows in stage_tables(report)]
    parts.append(markdown_table(SUMMARY_HEADER, summary_rows(report), right=True))
    parts += report["notes"]
    parts += [f"{each['name']} was left out: {each['reason']}." for each in report["skipped"]]
    parts.append(f"```sh\n{report['command']}\n```")
    return "\n\n".join(parts) + "\n"


# ---- Against an earlier run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One system, now against then.

    Attributes:
        name: of the system.
        ratio: of the total times, now over then.
        relative: of the fastest rounds of ten stretches of each run, as multiples of the yardstick's fastest in the
            same stretch, which takes out how fast the machine was that day.
        is_slower: the interval of ``relative`` says that it is slower, and its value that it is by more than what is
            allowed. ``ratio`` is shown and judges nothing: its interval knows the noise of a run and not that the
            machine may have been slower that day.
    """

    name: str
    ratio: Estimate
    relative: Estimate
    is_slower: bool

    def sentence(self, fail_over: float) -> str:
        """The verdict in words."""
        if self.ratio.low is None or self.ratio.high is None:
            return f"{self.name}: {self.ratio.value:.3f} times then: too few rounds to judge"
        lines = f"{self.name}: {_shown(self.ratio)} times then, {_shown(self.relative)} over the yardstick"
        if self.is_slower:
            return f"{lines}: slower by more than {100 * fail_over:g} %"
        return f"{lines}: no slowdown of more than {100 * fail_over:g} % can be claimed"


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def load_report(path: Path) -> dict[str, Any]:
    """A report that was saved.

    Raises:
        OptionError: the file is none, or cannot be read.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report[_FORMAT] != _VERSION:
            raise ValueError(f"version {report[_FORMAT]!r}")
        for each in report["systems"]:
            if min(len(each["rounds"]), len(report["yardstick_ms"]) - len(each["rounds"]) + 1) < 1:
                raise ValueError("no rounds")
            _totals(each), each["name"]
    except OSError as error:
        raise OptionError("compare", str(path), f"a file that can be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OptionError("compare", str(path), f"a file of whisperq-edge bench --save ({error!r})") from error
    return dict(report)


def check_comparable(card: Mapping[str, Any], settings: Mapping[str, Any], then: Mapping[str, Any], path: str) -> None:
    """Refuses to judge across machines or across tasks.

    Raises:
        OptionError: what differs, by name.
    """
    differences = card_differences(dict(card), dict(then["card"]))
    for name in ("model", "audio_sha256", "n_tokens", "beam_size", "language"):
        now_value, then_value = settings.get(name), then["settings"].get(name)
        if now_value != then_value:
            differences.append(f"{name} is {now_value!r}, then {then_value!r}")
    if differences:
        raise OptionError("compare", path, f"a run of the same machine and task: {'; '.join(differences)}")


def compare_reports(now: Mapping[str, Any], then: Mapping[str, Any], fail_over: float) -> list[Change]:
    """Every system that both runs have, now against then. The intervals hold together: with k systems each has a
    confidence of ``1 - 0.05 / k``.

    Args:
        now, then: reports that :func:`check_comparable` let through.
        fail_over: 0.05 allows 5 %.

    Raises:
        OptionError: they have no system in common.
    """
    before = {_identity(each): each for each in then["systems"]}
    pairs = [(each, before[_identity(each)]) for each in now["systems"] if _identity(each) in before]
    if not pairs:
        names = ", ".join(each["name"] for each in then["systems"])
        raise OptionError("compare", names, "a run with a system of this one (engine, type, threads)")
    confidence = 1 - (1 - CONFIDENCE) / len(pairs)
    return [_change(a, b, now, then, confidence, fail_over) for a, b in pairs]


def rounds_to_judge(n_systems: int) -> int:
    """That both runs need."""
    return least_rounds(1 - (1 - CONFIDENCE) / n_systems)


def _identity(system: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(system[name] for name in ("kind", "engine", "type", "threads", "shape"))


def _change(
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    now: Mapping[str, Any],
    then: Mapping[str, Any],
    confidence: float,
    fail_over: float,
) -> Change:
    totals, totals_then = _totals(a), _totals(b)
    ratio = ratio_of_runs(totals, totals_then, confidence)
    relative = ratio_of_runs(_over(totals, now), _over(totals_then, then), confidence)
    is_slower = relative.low is not None and relative.low > 1 and relative.value > 1 + fail_over
    return Change(a["name"], ratio, relative, is_slower)


def _totals(system: Mapping[str, Any]) -> list[float]:
    return [float(each["total_ms"]) for each in system["rounds"]]


def _over(totals: Sequence[float], report: Mapping[str, Any]) -> Any:
    yardstick = [float(ms) for ms in report["yardstick_ms"]]
    return fastest_of_blocks(totals, _BLOCKS) / fastest_of_blocks(yardstick, _BLOCKS)
