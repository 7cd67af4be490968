"""The results of a study as data, as rows of tables and in words."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

import numpy as np

from .. import _core
from .._eval.data import Dataset
from .._eval.report import bounds, percent
from .._eval.report import make_report as make_eval_report
from .._eval.statistics import Difference, bootstrap_rate, compare, holm, is_claimed, signed_points
from .._system.markdown import markdown_table
from .run import CLEAN, Condition, EncoderNoise, RowResult, StudyModel
from .schemes import Row

__all__ = [
    "AXES_HEADER",
    "NOISE_HEADER",
    "axes_rows",
    "make_report",
    "markdown",
    "noise_header",
    "noise_rows",
    "sentences",
    "table_header",
    "table_rows",
]

_FORMAT = 1
_KEPT_OF_A_SYSTEM = ("errors", "words", "substitutions", "deletions", "insertions", "wer", "cer")

Normaliser = Callable[[str], str]
Report = dict[str, Any]


def make_report(
    model: StudyModel,
    results: Sequence[RowResult],
    conditions: Sequence[Condition],
    *,
    dataset: Optional[Dataset],
    normalise: Optional[Normaliser],
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    seed: int = 0,
) -> Report:
    """Everything that is known after a run.

    Args:
        model, results, conditions: of :class:`~whisperq_edge._study.run.Study`.
        dataset: None where there was none.
        normalise: of texts; needed where something was heard.
        settings: of the run.
        about: what else shall stand in the report, such as the command.
        seed: of the bootstrap.

    Raises:
        as ``eval``'s ``make_report``.
    """
    heard = results[0].run is not None
    evals: dict[str, Report] = {}
    if heard and dataset is not None and normalise is not None:
        names = {of.id: each.id for c in conditions for each, of in zip(conditions[0].utterances, c.utterances)}
        for each in conditions:
            evals[each.name] = _heard_in(each, results, dataset, normalise, settings, seed)
            for utterance in evals[each.name]["utterances"]:
                utterance["id"] = names[utterance["id"]]  # the same in every condition
    return {
        "whisperq_edge_study": _FORMAT,
        **about,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "machine": {"cpu": _core.cpu_name() or _core.cpu_family(), "system": platform.platform(terse=True)},
        "model": {"name": model.name, "sha256": model.sha256, "bytes": model.path.stat().st_size},
        "scope": model.scope.description(),
        "conditions": [each.name for each in conditions],
        "clips": len(conditions[0].clips),
        "data": next((each["data"] for each in evals.values()), None),
        "rows": [_row(each, evals) for each in results],
        "axes": _axes(results, conditions, evals, seed),
        "in_noise": _in_noise(results, evals, seed),
        "verdicts": {name: each["verdict"] for name, each in evals.items()},
        "notes": _notes(evals),
        "failures": [failure for each in evals.values() for failure in each["failures"]],
        "utterances": {name: _counts(each) for name, each in evals.items()},
    }


def _heard_in(
    condition: Condition,
    results: Sequence[RowResult],
    dataset: Dataset,
    normalise: Normaliser,
    settings: Mapping[str, Any],
    seed: int,
) -> Report:
    """``eval``'s report of one condition: every row against the float model."""
    ids = {each.id for each in condition.utterances}
    runs = []
    for each in results:
        assert each.run is not None
        heard = {id: what for id, what in each.run.heard.items() if id in ids}
        failures = {id: reason for id, reason in each.run.failures.items() if id in ids}
        runs.append(replace(each.run, heard=heard, failures=failures))
    of_condition = replace(dataset, utterances=condition.utterances)
    return make_eval_report(of_condition, runs, normalise, settings=settings, about={}, seed=seed, n_worst=0)


# ---- Rows ------------------------------------------------------------------------------------------------------------


def _row(result: RowResult, evals: Mapping[str, Report]) -> Report:
    row = result.row
    return {
        "name": row.name,
        "weights": row.weights.name,
        "activations": row.activations.name,
        "calibrated": row.activations.is_static,
        "bits_per_weight": round(result.bits_per_weight, 4),
        "bytes": result.model_bytes,
        "weight_sqnr_db": result.weights.sqnr_db,
        "layers_sqnr_db": result.weights.layers,
        "encoder": {name: _encoder(noise) for name, noise in result.encoder.items()},
        "heard": {name: _system(report, row.name) for name, report in evals.items()},
    }


def _encoder(noise: EncoderNoise) -> Report:
    return {"recording": _mean(noise.recording), "window": _mean(noise.window)}


def _mean(values: Sequence[Optional[float]]) -> Optional[Report]:
    """Over clips, in dB, with the interval over clips; None: the output is the same."""
    finite = [value for value in values if value is not None]
    if not finite:
        return None
    interval = bootstrap_rate(finite, np.ones(len(finite)), signed=True)
    several = len(set(finite)) > 1
    return {
        "mean": round(float(np.mean(finite)), 3),
        "low": round(interval.low, 3) if several else None,
        "high": round(interval.high, 3) if several else None,
        "clips": [None if value is None else round(value, 2) for value in values],
    }


def _system(report: Report, name: str) -> Report:
    system = next(each for each in report["systems"] if each["name"] == name)
    comparison = next((each for each in report["comparisons"] if each["name"] == name), None)
    return {**{key: system[key] for key in _KEPT_OF_A_SYSTEM}, "against_float": comparison}


def _counts(report: Report) -> Report:
    """Words and errors of every utterance, so that other questions can be asked without hearing again."""
    utterances = report["utterances"]
    names = [each["name"] for each in report["systems"]]
    return {
        "id": [each["id"] for each in utterances],
        "words": [each["words"] for each in utterances],
        "errors": {name: [each["heard"][name]["errors"] for each in utterances] for name in names},
    }


def _notes(evals: Mapping[str, Report]) -> list[str]:
    notes = []
    for condition, report in evals.items():
        for note in report["notes"][:-1]:  # the last is about speed, which is not measured here
            notes.append(f"{condition}: {note}")
    return notes


# ---- One axis at a time ----------------------------------------------------------------------------------------------

_GRANULARITIES = ("tensor", "channel", "group")
_KINDS = ("float", "block", "token", "tensor", "static")


def pairs_along_axes(rows: Sequence[Row]) -> list[tuple[str, Row, Row]]:
    """Pairs of rows that differ in one choice: the axis, and the two that are neighbours on it.

    Granularity from coarse to fine, bits from many to few, activations from none to dynamic blocks, tokens, tensors and
    static tensors. ``levels`` are nf4 or fp8 beside symmetric integers of as many bits.
    """
    found: list[tuple[str, Row, Row]] = []
    for axis, place in _PLACES.items():
        lines: dict[Any, list[tuple[Any, Row]]] = {}
        for row in rows:
            where = place(row)
            if where is not None:
                line, position = where
                lines.setdefault(line, []).append((position, row))
        for line_rows in lines.values():
            ordered = [row for _, row in sorted(line_rows, key=lambda each: each[0])]
            found += [(axis, first, second) for first, second in zip(ordered, ordered[1:])]
    return found


def _bits(row: Row) -> Optional[tuple[Any, Any]]:
    w = row.weights
    return ((w.is_symmetric, w.granularity, w.group, row.activations), -w.bits) if w.levels == "int" else None


def _symmetry(row: Row) -> Optional[tuple[Any, Any]]:
    w = row.weights
    return ((w.bits, w.granularity, w.group, row.activations), not w.is_symmetric) if w.levels == "int" else None


def _granularity(row: Row) -> Optional[tuple[Any, Any]]:
    w = row.weights
    if w.is_float:
        return None
    position = (_GRANULARITIES.index(w.granularity), -w.group)
    return (w.levels, w.bits, w.is_symmetric, row.activations), position


def _levels(row: Row) -> Optional[tuple[Any, Any]]:
    w = row.weights
    if w.is_float or not w.is_symmetric:
        return None
    return (w.bits, w.granularity, w.group, row.activations), ("int", "nf4", "fp8").index(w.levels)


def _activations(row: Row) -> Optional[tuple[Any, Any]]:
    a = row.activations
    kind = a.granularity if a.kind == "dynamic" else a.kind
    return (row.weights, a.is_symmetric), (_KINDS.index(kind), a.block)


_PLACES: dict[str, Callable[[Row], Optional[tuple[Any, Any]]]] = {
    "granularity": _granularity,
    "symmetry": _symmetry,
    "bits": _bits,
    "levels": _levels,
    "activations": _activations,
}


def _axes(
    results: Sequence[RowResult], conditions: Sequence[Condition], evals: Mapping[str, Report], seed: int
) -> list[Report]:
    pairs = pairs_along_axes([each.row for each in results])
    by_name = {each.row.name: each for each in results}
    found: list[Report] = []
    for condition in conditions:
        report = evals.get(condition.name)
        differences = [
            _compared(report, first.name, report, second.name, seed) if report else None for _, first, second in pairs
        ]
        corrected = _corrected(differences)
        for (axis, first, second), difference, p in zip(pairs, differences, corrected):
            before, after = by_name[first.name], by_name[second.name]
            found.append(
                {
                    "condition": condition.name,
                    "axis": axis,
                    "from": first.name,
                    "to": second.name,
                    "sqnr_change_db": _sqnr_change(before.encoder[condition.name], after.encoder[condition.name]),
                    "words": _difference(difference, p),
                }
            )
    return found


def _sqnr_change(before: EncoderNoise, after: EncoderNoise) -> Optional[float]:
    """Of the clips' mean; None where one of them has no noise at all."""
    changes = [b - a for a, b in zip(before.recording, after.recording) if a is not None and b is not None]
    return round(float(np.mean(changes)), 3) if changes else None


def _errors(report: Report, name: str) -> dict[str, tuple[int, int, Optional[str]]]:
    """Errors, words and speaker by utterance."""
    return {
        each["id"]: (each["heard"][name]["errors"], each["words"], each["speaker"]) for each in report["utterances"]
    }


def _compared(before: Report, first: str, after: Report, second: str, seed: int) -> Difference:
    then, now = _errors(before, first), _errors(after, second)
    ids = [id for id in then if id in now]
    words = [then[id][1] for id in ids]
    speakers = _known([then[id][2] for id in ids])
    return compare([now[id][0] for id in ids], [then[id][0] for id in ids], words, speakers, seed=seed)


def _known(speakers: Sequence[Optional[str]]) -> Optional[list[str]]:
    """None where one of them is not known."""
    names = [speaker for speaker in speakers if speaker is not None]
    return names if len(names) == len(speakers) else None


def _corrected(differences: Sequence[Optional[Difference]]) -> list[Optional[float]]:
    known = [each for each in differences if each is not None]
    values = iter(holm([each.p for each in known]).tolist() if known else [])
    return [None if each is None else next(values) for each in differences]


def _difference(difference: Optional[Difference], p: Optional[float]) -> Optional[Report]:
    if difference is None or p is None:
        return None
    return {
        "points": difference.rate,
        "interval": [difference.interval.low, difference.interval.high],
        "p": difference.p,
        "p_corrected": p,
        "is_claimed": is_claimed(difference, p),
    }


# ---- Noise -----------------------------------------------------------------------------------------------------------


def _in_noise(results: Sequence[RowResult], evals: Mapping[str, Report], seed: int) -> list[Report]:
    """Does a row lose more in noise than it loses on clean speech? Differences of differences, by utterance: what the
    row costs more than the float model in noise, less what it costs more on clean speech."""
    if CLEAN not in evals:
        return []
    base = results[0].row.name
    entries: list[tuple[str, str, Difference]] = []
    for name, report in evals.items():
        for each in results[1:] if name != CLEAN else ():
            entries.append((name, each.row.name, _interaction(evals[CLEAN], report, base, each.row.name, seed)))
    corrected = _corrected([difference for *_, difference in entries])
    return [
        {"condition": condition, "name": name, "extra": _difference(difference, p)}
        for (condition, name, difference), p in zip(entries, corrected)
    ]


def _interaction(clean: Report, noisy: Report, base: str, name: str, seed: int) -> Difference:
    quiet_base, quiet = _errors(clean, base), _errors(clean, name)
    loud_base, loud = _errors(noisy, base), _errors(noisy, name)
    ids = [id for id in quiet_base if id in loud_base]
    cost_in_quiet = [quiet[id][0] - quiet_base[id][0] for id in ids]
    cost_in_noise = [loud[id][0] - loud_base[id][0] for id in ids]
    words, speakers = [quiet[id][1] for id in ids], _known([quiet[id][2] for id in ids])
    return compare(cost_in_noise, cost_in_quiet, words, speakers, seed=seed)


# ---- Tables ----------------------------------------------------------------------------------------------------------

AXES_HEADER = ("axis", "from", "to", "SQNR, dB", "points", "95 %", "p corrected", "claimed")
NOISE_HEADER = "WER % "


def table_header(report: Report) -> tuple[str, ...]:
    """Of the main table, which is about clean speech."""
    words = ("WER %", "95 %", "against float, points", "95 % of it", "verdict") if report["data"] else ()
    return ("weights", "activations", "calibrated", "modules", "bits", "MiB", "weights, dB", "encoder, dB", *words)


def table_rows(report: Report) -> list[tuple[str, ...]]:
    """Cells under :func:`table_header`."""
    return [(*_cells(each, report["scope"]["name"]), *_words(each)) for each in report["rows"]]


def _cells(row: Report, scope: str) -> tuple[str, ...]:
    kept = row["weights"] == "float" and row["activations"] == "float"
    return (
        *(row["weights"], row["activations"], "yes" if row["calibrated"] else "no", "none" if kept else scope),
        *(f"{row['bits_per_weight']:.3f}", f"{row['bytes'] / 2**20:.2f}", _db(row["weight_sqnr_db"])),
        _sqnr(row["encoder"][CLEAN]),
    )


def _db(value: Optional[float]) -> str:
    return "exact" if value is None else f"{value:.1f}"


def _sqnr(encoder: Report) -> str:
    """Mean over clips with its interval, over the frames that the recording fills."""
    found = encoder["recording"]
    if found is None:
        return "exact"
    if found["low"] is None:
        return f"{found['mean']:.1f}"
    return f"{found['mean']:.1f} ({found['low']:.1f} to {found['high']:.1f})"


def _words(row: Report) -> tuple[str, ...]:
    heard = row["heard"].get(CLEAN)
    if heard is None:
        return ()
    wer, against = heard["wer"], heard["against_float"]
    rate = (percent(wer["rate"]), bounds(wer["interval"]))
    if against is None:
        return (*rate, "", "", "what all is compared with")
    return (*rate, signed_points(against["difference"]), bounds(against["interval"], signed=True), _verdict(against))


def _verdict(comparison: Report) -> str:
    if not comparison["is_claimed"]:
        return "no difference can be claimed"
    return f"{'more' if comparison['difference'] > 0 else 'fewer'} errors (p = {comparison['p_corrected']:.2g})"


def noise_header(report: Report) -> tuple[str, ...]:
    """Of the table of conditions."""
    conditions = report["conditions"]
    sqnr = [f"encoder, dB {name}" for name in conditions]
    if not report["data"]:
        return ("row", *sqnr)
    rates = [f"{NOISE_HEADER}{name}" for name in conditions]
    extra = [f"extra points at {name}" for name in conditions if name != CLEAN]
    return ("row", *sqnr, *rates, *extra)


def noise_rows(report: Report) -> list[tuple[str, ...]]:
    """Cells under :func:`noise_header`. Extra points: what the row costs more than float there, less what it costs more
    on clean speech; with a star where that can be claimed."""
    extra = {(each["name"], each["condition"]): each["extra"] for each in report["in_noise"]}
    rows = []
    for each in report["rows"]:
        sqnr = [_mean_only(each["encoder"][name]) for name in report["conditions"]]
        rates = [_rate(each["heard"][name]) for name in report["conditions"] if each["heard"]]
        differences = [_extra(extra.get((each["name"], name))) for name in report["conditions"] if name != CLEAN]
        rows.append((each["name"], *sqnr, *rates, *(differences if each["heard"] else ())))
    return rows


def _mean_only(encoder: Report) -> str:
    return _db(None if encoder["recording"] is None else encoder["recording"]["mean"])


def _rate(heard: Report) -> str:
    return f"{percent(heard['wer']['rate'])} ({bounds(heard['wer']['interval'])})"


def _extra(found: Optional[Report]) -> str:
    if found is None:
        return ""
    interval = bounds(found["interval"], signed=True)
    return f"{signed_points(found['points'])} ({interval}){' *' if found['is_claimed'] else ''}"


def axes_rows(report: Report, condition: str = CLEAN) -> list[tuple[str, ...]]:
    """Cells under :data:`AXES_HEADER`."""
    return [
        (
            *(each["axis"], each["from"], each["to"]),
            "" if each["sqnr_change_db"] is None else f"{each['sqnr_change_db']:+.1f}",
            *_axis_words(each["words"]),
        )
        for each in report["axes"]
        if each["condition"] == condition
    ]


def _axis_words(words: Optional[Report]) -> tuple[str, ...]:
    if words is None:
        return "", "", "", ""
    return (
        *(signed_points(words["points"]), bounds(words["interval"], signed=True), f"{words['p_corrected']:.2g}"),
        "yes" if words["is_claimed"] else "no",
    )


# ---- In words --------------------------------------------------------------------------------------------------------


def sentences(report: Report) -> list[str]:
    """What stands below the tables."""
    scope, lines = report["scope"], []
    lines.append(
        f"Rounded: {'; '.join(scope['modules'])} ({scope['matrices']} matrices, {scope['weights'] / 1e6:.2f} M weights,"
        f" {100 * scope['share_of_weights']:.1f} % of the model); all else as it is. Bits count codes, f16 scales and"
        " zero points; the model's size has the scope in these bits."
    )
    lines.append(
        f"Encoder: SQNR of its output against the float model's on the same audio, mean of {report['clips']} clips over"
        " the frames that the recording fills."
    )
    if report["noise"]:
        lines.append(report["noise"]["in_words"])
    for condition in report["conditions"]:
        for row in report["rows"]:
            against = row["heard"].get(condition, {}).get("against_float")
            if against is not None and against["is_claimed"]:
                lines.append(f"{condition}: {against['verdict']}")
        if condition in report["verdicts"]:
            lines.append(f"{condition}: {report['verdicts'][condition]}")
    if report["in_noise"]:
        lines.append(_noise_sentence(report))
    return [*lines, *report["notes"]]


def _noise_sentence(report: Report) -> str:
    claimed = [each for each in report["in_noise"] if each["extra"]["is_claimed"]]
    n = len(report["in_noise"])
    if not claimed:
        return (
            f"That noise makes rounding cost more (or less) than on clean speech can be claimed of none of {n} pairs."
        )
    each = ", ".join(f"{c['name']} at {c['condition']} ({signed_points(c['extra']['points'])})" for c in claimed)
    return f"Rounding costs another number of points in noise than on clean speech (of {n} pairs): {each}."


def markdown(report: Report) -> str:
    """The tables and sentences for a page."""
    parts = [_table(table_header(report), table_rows(report))]
    if len(report["conditions"]) > 1:
        parts.append(_table(noise_header(report), noise_rows(report)))
    if report["axes"]:
        parts.append(_table(AXES_HEADER, axes_rows(report)))
    return "\n".join([*parts, *(f"{line}\n" for line in sentences(report))])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown_table(header, rows) + "\n"
