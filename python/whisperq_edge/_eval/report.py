"""The results of a run as data: what ``--output`` and ``--json`` hold, and what the tables and the page are made of."""

from __future__ import annotations

import datetime
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Optional

import numpy as np

from .. import _core
from .._convert.report import sidecar_path
from .._errors import DatasetError, InferenceError, OptionError
from .data import Dataset, Utterance
from .run import SystemRun
from .statistics import (
    Interval,
    by_cluster,
    compare,
    detectable_difference,
    holm,
    is_claimed,
    rate_interval,
    signed_points,
    verdict,
)
from .words import Score, confusions, score

__all__ = [
    "ACCURACY_HEADER",
    "COMPARISON_HEADER",
    "SPEED_HEADER",
    "accuracy_rows",
    "bounds",
    "comparison_rows",
    "make_report",
    "percent",
    "speed_rows",
    "what_can_be_seen",
]

_FORMAT = 1
_FEW_UTTERANCES, _FEW_SPEAKERS = 20, 20

Normaliser = Callable[[str], str]


def what_can_be_seen(dataset: Dataset, normalise: Normaliser, n_systems: int) -> str:
    """A sentence to say before the run.

    Raises:
        DatasetError: no reference has a word.
    """
    words = _reference_words(dataset, normalise)
    return f"{detectable_difference(words, max(n_systems - 1, 1))}."


def _reference_words(dataset: Dataset, normalise: Normaliser) -> list[int]:
    words = [len(normalise(each.text).split()) for each in dataset.utterances]
    if not any(words):
        raise DatasetError(str(dataset.path), None, "no text in it has a word: there is nothing to count")
    return words


def make_report(
    dataset: Dataset,
    runs: Sequence[SystemRun],
    normalise: Normaliser,
    *,
    baseline: Optional[str] = None,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    seed: int = 0,
    n_worst: int = 10,
) -> dict[str, Any]:
    """Everything that is known after a run.

    Utterances that one of the systems failed on are left out for all of them, so that all stand on the same words.

    Args:
        dataset: what was heard.
        runs: of :func:`~whisperq_edge._eval.run.run_systems`.
        normalise: of :func:`~whisperq_edge._eval.normalise.normaliser`.
        baseline: name of the system that the others are compared with; the first one unless given.
        settings: of the run.
        about: what else shall stand in the report, such as the command.
        seed: of the bootstrap.
        n_worst: utterances to list for each system.

    Raises:
        OptionError: no system has the baseline's name.
        InferenceError: no utterance was heard by all systems.
    """
    base = _baseline(runs, baseline)
    failed = {id: reason for run in runs for id, reason in run.failures.items()}
    utterances = [each for each in dataset.utterances if each.id not in failed]
    if not utterances:
        first = next(iter(failed.items()))
        raise InferenceError(f"every utterance failed on some system; the first reason, of {first[0]}: {first[1]}")
    scores = {run.system.name: _scores(run, utterances, normalise) for run in runs}
    words = np.array([each.words for each in scores[base.system.name]])
    if not words.sum():
        raise DatasetError(str(dataset.path), None, "no text in it has a word: there is nothing to count")
    speakers = None if dataset.speakers is None else [str(each.speaker) for each in utterances]
    comparisons = _comparisons(runs, base, scores, words, speakers, seed)
    return {
        "whisperq_edge_eval": _FORMAT,
        **about,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "machine": {"cpu": _core.cpu_name() or _core.cpu_family(), "system": platform.platform(terse=True)},
        "data": _about_data(dataset, utterances, words, speakers, runs),
        "systems": [_about_system(run, scores[run.system.name], utterances, speakers, seed, n_worst) for run in runs],
        "baseline": base.system.name,
        "comparisons": comparisons,
        "verdict": _summary(comparisons, base.system.name, int(words.sum())),
        "notes": _notes(scores, comparisons, speakers),
        "failures": [
            {"system": run.system.name, "utterance": id, "reason": reason}
            for run in runs
            for id, reason in run.failures.items()
        ],
        "utterances": _transcripts(utterances, scores),
    }


def _baseline(runs: Sequence[SystemRun], name: Optional[str]) -> SystemRun:
    names = [run.system.name for run in runs]
    if name is not None and name not in names:
        raise OptionError("baseline", name, f"one of {', '.join(names)}")
    return runs[names.index(name) if name is not None else 0]


def _scores(run: SystemRun, utterances: Sequence[Utterance], normalise: Normaliser) -> list[Score]:
    return [score(normalise(each.text), normalise(run.heard[each.id].text)) for each in utterances]


# ---- The set ---------------------------------------------------------------------------------------------------------


def _about_data(
    dataset: Dataset,
    utterances: Sequence[Utterance],
    words: Any,
    speakers: Optional[Sequence[str]],
    runs: Sequence[SystemRun],
) -> dict[str, Any]:
    detectable = detectable_difference(words, max(len(runs) - 1, 1))
    return {
        "path": str(dataset.path),
        "layout": dataset.layout,
        "utterances": len(utterances),
        "utterances_in_set": dataset.n_all,
        "words": int(words.sum()),
        "speakers": None if speakers is None else len(set(speakers)),
        "audio_s": round(sum(runs[0].heard[each.id].audio_s for each in utterances), 2),
        "can_show": {**asdict(detectable), "in_words": f"{detectable}."},
    }


def _notes(
    scores: Mapping[str, Sequence[Score]],
    comparisons: Sequence[Mapping[str, Any]],
    speakers: Optional[Sequence[str]],
) -> list[str]:
    notes = []
    few = [name for name, each in scores.items() if sum(s.errors > 0 for s in each) < _FEW_UTTERANCES]
    if few:
        notes.append(
            f"Fewer than {_FEW_UTTERANCES} utterances with errors ({', '.join(few)}): intervals are Poisson limits,"
            " rather too wide than too narrow."
        )
    alike = [each["name"] for each in comparisons if each["utterances_changed"] < _FEW_UTTERANCES]
    if alike:
        notes.append(
            f"Fewer than {_FEW_UTTERANCES} utterances changed ({', '.join(alike)}): intervals of these differences are"
            " Poisson limits, rather too wide than too narrow; p is exact."
        )
    if speakers is None:
        notes.append("Speakers are not known: nothing is said about other speakers.")
    elif len(set(speakers)) < _FEW_SPEAKERS:
        notes.append(f"{len(set(speakers))} speakers are few: intervals by speaker are rather too narrow.")
    notes.append("Systems were timed one after the other, not in turn: their speeds are a rough guide.")
    return notes


def _transcripts(utterances: Sequence[Utterance], scores: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    rows = []
    for i, each in enumerate(utterances):
        heard = {name: {"text": of[i].hypothesis, "errors": of[i].errors} for name, of in scores.items()}
        reference = next(iter(scores.values()))[i]
        rows.append(
            {
                "id": each.id,
                "speaker": each.speaker,
                "reference": reference.reference,
                "words": reference.words,
                "heard": heard,
            }
        )
    return rows


# ---- A system --------------------------------------------------------------------------------------------------------


def _about_system(
    run: SystemRun,
    scores: Sequence[Score],
    utterances: Sequence[Utterance],
    speakers: Optional[Sequence[str]],
    seed: int,
    n_worst: int,
) -> dict[str, Any]:
    errors, words = [each.errors for each in scores], [each.words for each in scores]
    heard = [run.heard[each.id] for each in utterances]
    wall_ms, audio_s = np.array([each.wall_ms for each in heard]), sum(each.audio_s for each in heard)
    return {
        "name": run.system.name,
        "model": run.system.model,
        "type": run.system.type,
        "engine": run.system.engine,
        "path": str(run.system.path),
        "bytes": run.system.n_bytes,
        "words": sum(words),
        "errors": sum(errors),
        "substitutions": sum(each.substitutions for each in scores),
        "deletions": sum(each.deletions for each in scores),
        "insertions": sum(each.insertions for each in scores),
        "wer": _rate(errors, words, speakers, seed),
        "cer": _rate([s.character_errors for s in scores], [s.characters for s in scores], speakers, seed),
        "rtf": float(wall_ms.sum() / 1000 / audio_s) if audio_s else None,
        "latency_ms": {"p50": float(np.percentile(wall_ms, 50)), "p95": float(np.percentile(wall_ms, 95))},
        "load_ms": run.load_ms,
        "peak_rss_bytes": run.peak_rss_bytes,
        "stages": _stages(run, utterances),
        "layers": _layers(run),
        "confusions": [asdict(each) for each in confusions(scores)],
        "worst": _worst(scores, utterances, n_worst),
    }


def _rate(errors: Sequence[int], words: Sequence[int], speakers: Optional[Sequence[str]], seed: int) -> dict[str, Any]:
    by_speaker = None
    if speakers is not None and len(set(speakers)) > 1:
        by_speaker = rate_interval(by_cluster(errors, speakers), by_cluster(words, speakers), seed=seed)
    return {
        "rate": sum(errors) / sum(words),
        "interval": _pair(rate_interval(errors, words, seed=seed)),
        "interval_by_speaker": _pair(by_speaker),
    }


def _pair(interval: Optional[Interval]) -> Optional[list[float]]:
    return None if interval is None else [interval.low, interval.high]


def _stages(run: SystemRun, utterances: Sequence[Utterance]) -> dict[str, dict[str, float]]:
    """Milliseconds and runs of each stage in all utterances together; ``load`` once."""
    sums: dict[str, list[float]] = {} if run.load_ms is None else {"load": [run.load_ms, 1]}
    for each in utterances:
        for stage, (ms, runs) in run.heard[each.id].stages.items():
            known = sums.setdefault(stage, [0.0, 0])
            known[0] += ms
            known[1] += runs
    return {stage: {"ms": ms, "runs": int(runs)} for stage, (ms, runs) in sums.items()}


def _worst(scores: Sequence[Score], utterances: Sequence[Utterance], most: int) -> list[dict[str, Any]]:
    ranking = sorted(range(len(scores)), key=lambda i: (-scores[i].errors, i))[:most]
    return [
        {
            "id": utterances[i].id,
            "errors": scores[i].errors,
            "words": scores[i].words,
            "reference": scores[i].reference,
            "hypothesis": scores[i].hypothesis,
        }
        for i in ranking
        if scores[i].errors
    ]


def _layers(run: SystemRun) -> Optional[list[dict[str, Any]]]:
    """What the converter's report beside the model says of the weights, layer by layer: mean and lowest SQNR of the
    tensors that were quantised. None: there is no report, or nothing was quantised."""
    try:
        document = json.loads(sidecar_path(run.system.path).read_bytes())
        tensors = [(str(t["name"]), t["sqnr_db"]) for t in document["tensors"] if t["quantised"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    layers: dict[str, list[float]] = {}
    for name, sqnr_db in tensors:
        if isinstance(sqnr_db, (int, float)):
            layers.setdefault(_layer(name), []).append(float(sqnr_db))
    rows = [
        {"layer": layer, "mean_sqnr_db": sum(values) / len(values), "lowest_sqnr_db": min(values)}
        for layer, values in layers.items()
    ]
    return sorted(rows, key=lambda row: _order(str(row["layer"]))) or None


def _layer(tensor: str) -> str:
    found = re.match(r"(encoder|decoder)\.blocks\.(\d+)\.", tensor)
    return f"{found[1]} {found[2]}" if found else tensor.rsplit(".", 1)[0].replace("decoder.", "")


def _order(layer: str) -> tuple[int, int, str]:
    part, _, number = layer.partition(" ")
    place = {"encoder": 0, "decoder": 1}.get(part, 2)
    return place, int(number) if number.isdigit() else 0, layer


# ---- Comparisons -----------------------------------------------------------------------------------------------------


def _comparisons(
    runs: Sequence[SystemRun],
    base: SystemRun,
    scores: Mapping[str, Sequence[Score]],
    words: Any,
    speakers: Optional[Sequence[str]],
    seed: int,
) -> list[dict[str, Any]]:
    errors = {name: [each.errors for each in of] for name, of in scores.items()}
    names = [run.system.name for run in runs if run is not base]
    found = [compare(errors[name], errors[base.system.name], words, speakers, seed=seed) for name in names]
    corrected = holm([each.p for each in found]).tolist()
    return [
        {
            "name": name,
            "difference": each.rate,
            "interval": _pair(each.interval),
            "interval_by_speaker": _pair(each.speaker_interval),
            "p": each.p,
            "p_by_speaker": each.speaker_p,
            "p_corrected": p,
            "utterances_changed": each.n_changed,
            "is_claimed": is_claimed(each, p),
            "verdict": verdict(name, each, p, len(names)),
        }
        for name, each, p in zip(names, found, corrected)
    ]


def _summary(comparisons: Sequence[Mapping[str, Any]], baseline: str, words: int) -> str:
    if not comparisons:
        return f"{baseline} was measured alone: there is nothing to compare it with."
    worse = [each["name"] for each in comparisons if each["is_claimed"] and each["difference"] > 0]
    better = [each["name"] for each in comparisons if each["is_claimed"] and each["difference"] < 0]
    if not worse and not better:
        return f"Nothing differs from {baseline}: no difference can be claimed from {words} words."
    parts = [
        f"{how} errors than {baseline}: {', '.join(names)}"
        for how, names in (("more", worse), ("fewer", better))
        if names
    ]
    rest = len(comparisons) - len(worse) - len(better)
    sentence = "; ".join(parts)
    return sentence[:1].upper() + sentence[1:] + ("; no difference can be claimed for the others." if rest else ".")


# ---- Rows of tables --------------------------------------------------------------------------------------------------

ACCURACY_HEADER = ("system", "MB", "WER %", "95 %", "errors", "S", "D", "I", "CER %")
SPEED_HEADER = ("system", "RTF", "p50 ms", "p95 ms", "load ms", "peak MB")
COMPARISON_HEADER = ("against {baseline}", "points", "95 %", "by speaker", "p", "p corrected", "changed")


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def bounds(pair: Optional[Sequence[float]], signed: bool = False) -> str:
    if pair is None:
        return "-"
    low, high = (signed_points(value) if signed else percent(value) for value in pair)
    return f"{low} to {high}"


def accuracy_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells under :data:`ACCURACY_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for each in report["systems"]:
        wer, cer = each["wer"], each["cer"]
        parts = (str(each[name]) for name in ("substitutions", "deletions", "insertions"))
        errors = f"{each['errors']}/{each['words']}"
        rows.append(
            (
                *(each["name"], f"{each['bytes'] / 1e6:.2f}", percent(wer["rate"]), bounds(wer["interval"]), errors),
                *(*parts, percent(cer["rate"])),
            )
        )
    return rows


def speed_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells under :data:`SPEED_HEADER`."""
    rows: list[tuple[str, ...]] = []
    for each in report["systems"]:
        peak = each["peak_rss_bytes"]
        rows.append(
            (
                *(each["name"], "-" if each["rtf"] is None else f"{each['rtf']:.3f}"),
                *(f"{each['latency_ms'][name]:.0f}" for name in ("p50", "p95")),
                "-" if each["load_ms"] is None else f"{each['load_ms']:.0f}",
                f"{peak / 1e6:.0f}" if peak else "-",
            )
        )
    return rows


def comparison_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cells under :data:`COMPARISON_HEADER`."""
    return [
        (
            *(each["name"], signed_points(each["difference"]), bounds(each["interval"], signed=True)),
            *(bounds(each["interval_by_speaker"], signed=True), f"{each['p']:.3g}", f"{each['p_corrected']:.3g}"),
            str(each["utterances_changed"]),
        )
        for each in report["comparisons"]
    ]
