"""Several models and types on one set of utterances, one after the other, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

from .._core import read_model_file, usable_cpus
from .._errors import OptionError
from .._store.locate import locate_model
from .._system.native import build_info
from .._version import __version__
from .._whisper.types import resolve_type
from .data import Utterance
from .journal import Journal
from .worker import answers

__all__ = ["Heard", "System", "SystemRun", "choose_systems", "is_all_heard", "run_settings", "run_systems"]

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class System:
    """A model file and the engine that runs it.

    Attributes:
        name: the shortest that tells the systems of a run apart, such as ``q5_0`` or ``base.en q5_0``.
        model: as it was asked for.
        type: of the file's matrices.
        engine: as it was asked for.
        path: the ggml file.
        n_bytes: of the file.
        is_multilingual: whether it knows more than English.
        activations: arguments of ``EdgeModel.round_activations``, for studies.
        identity: what the journal shall know it by where the file is made anew for every run.
    """

    name: str
    model: str
    type: str
    engine: str
    path: Path
    n_bytes: int
    is_multilingual: bool
    activations: Optional[Mapping[str, Any]] = None
    identity: Optional[str] = None

    @property
    def key(self) -> str:
        """What the journal knows it by: another file, or a file that changed, is another system."""
        if self.identity is not None:
            return f"{self.identity} {self.engine}"
        status = self.path.stat()
        return f"{self.path.resolve()} {status.st_size} {status.st_mtime_ns} {self.engine}"


@dataclass(frozen=True)
class Heard:
    """One utterance as one system heard it. ``stages``: milliseconds and runs of each."""

    text: str
    audio_s: float
    wall_ms: float
    stages: dict[str, tuple[float, int]]


@dataclass
class SystemRun:
    """All that a system heard, by id of the utterance, and what failed, with the reason."""

    system: System
    load_ms: Optional[float] = None
    peak_rss_bytes: Optional[int] = None
    heard: dict[str, Heard] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def choose_systems(
    models: Sequence[str],
    types: Sequence[str] = (),
    engines: Sequence[str] = ("auto",),
    *,
    n_threads: int = 0,
    on_progress: Optional[OnProgress] = None,
) -> list[System]:
    """Every model in every type on every engine. What is not there in a type is converted once into the cache.

    Args:
        models: names or paths, as ``WhisperModel`` takes them.
        types: none: each model as it is.
        engines: names.
        n_threads: of conversions.
        on_progress: told ("converting", fraction), and what is fetched.

    Raises:
        OptionError: nothing to run, a type that is none, or the same system twice.
        ModelError, OSError: as ``WhisperModel`` raises them.
    """
    if not models:
        raise OptionError("models", "", "at least one")
    wanted = [(model, resolve_type(type, "types")) for model in models for type in types]
    wanted = wanted or [(model, "default") for model in models]
    found = []
    for i, (model, type) in enumerate(wanted):
        found.append((model, locate_model(model, type, n_threads=n_threads, on_progress=on_progress)))
        if on_progress is not None and types:
            on_progress("converting", (i + 1) / len(wanted))
    systems = [_system(model, path, engine) for model, path in found for engine in engines]
    return _named(systems, several_models=len(set(models)) > 1, several_engines=len(set(engines)) > 1)


def _system(model: str, path: Path, engine: str) -> System:
    file = read_model_file(path)
    return System("", model, file.ftype, engine, path, path.stat().st_size, bool(file.is_multilingual))


def _named(systems: Sequence[System], several_models: bool, several_engines: bool) -> list[System]:
    named: dict[str, System] = {}
    files: dict[tuple[Path, str], str] = {}
    for each in systems:
        label = Path(each.model).name if several_models or each.type == "mixed" else ""
        name = " ".join(part for part in (label, each.type, each.engine if several_engines else "") if part)
        same = files.setdefault((each.path.resolve(), each.engine), name)
        if name in named or same != name:
            raise OptionError("models", each.model, f"every system once: {same} is there twice ({each.path})")
        named[name] = System(name, *(getattr(each, field) for field in System.__dataclass_fields__ if field != "name"))
    return [*named.values()]


def run_settings(options: Mapping[str, Any], device: str, n_threads: int) -> dict[str, Any]:
    """All that decides what is heard and how fast, systems and utterances aside."""
    return {
        "options": dict(options),
        "device": device,
        "threads": n_threads or usable_cpus(),
        "whisperq_edge": __version__,
        "whisper_cpp": build_info().whisper_cpp,
    }


def run_systems(
    systems: Sequence[System],
    utterances: Sequence[Utterance],
    settings: Mapping[str, Any],
    journal: Journal,
    *,
    on_progress: Optional[OnProgress] = None,
) -> list[SystemRun]:
    """Lets every system hear what the journal does not know of it. What failed in an earlier run is tried again.

    Args:
        systems: of :func:`choose_systems`.
        utterances: of a dataset.
        settings: of :func:`run_settings`.
        journal: with the same settings.
        on_progress: told ("everything" or a system's name, fraction done).

    Raises:
        OptionError, ModelError: the model or an option of it, as ``WhisperModel`` raises them.
        InferenceError: a process died. What it heard is in the journal.
    """
    progress = _Progress(len(systems) * len(utterances), len(utterances), on_progress)
    return [_run_system(system, utterances, settings, journal, progress) for system in systems]


class _Progress:
    def __init__(self, n_all: int, n_each: int, on_progress: Optional[OnProgress]) -> None:
        self._n_all, self._n_each, self._on_progress = n_all, n_each, on_progress
        self._done_before = 0

    def tell(self, system: str, n_done: int) -> None:
        if self._on_progress is not None:
            self._on_progress("everything", (self._done_before + n_done) / self._n_all)
            self._on_progress(system, n_done / self._n_each)
        if n_done == self._n_each:
            self._done_before += self._n_each


def _run_system(
    system: System,
    utterances: Sequence[Utterance],
    settings: Mapping[str, Any],
    journal: Journal,
    progress: _Progress,
) -> SystemRun:
    key, keys = system.key, {_utterance_key(each): each for each in utterances}
    waiting = [(name, os.path.abspath(each.audio)) for name, each in keys.items() if not _is_heard(journal, key, name)]
    n_done = len(keys) - len(waiting)
    progress.tell(system.name, n_done)
    if waiting:
        task = {
            "model": str(system.path.resolve()),
            "engine": system.engine,
            "device": settings["device"],
            "n_threads": settings["threads"],
            "options": settings["options"],
            "activations": system.activations,
            "utterances": waiting,
        }
        for answer in answers(task):
            _note(journal, key, answer)
            if "utterance" in answer:
                n_done += 1
                progress.tell(system.name, n_done)
    return _collect(system, journal, key, keys.items())


def _utterance_key(utterance: Utterance) -> str:
    return f"{utterance.id} {utterance.audio.stat().st_size}"


def is_all_heard(system: System, utterances: Iterable[Utterance], journal: Journal) -> bool:
    """Whether the journal knows all of it, so that :func:`run_systems` needs no model."""
    return all(_is_heard(journal, system.key, _utterance_key(each)) for each in utterances)


def _is_heard(journal: Journal, system: str, utterance: str) -> bool:
    record = journal.utterance(system, utterance)
    return record is not None and "failure" not in record


def _note(journal: Journal, system: str, answer: Mapping[str, Any]) -> None:
    record = {name: value for name, value in answer.items() if name != "utterance"}
    if "utterance" in answer:
        journal.add_utterance(system, answer["utterance"], record)
    else:
        journal.add_system(system, record)


def _collect(system: System, journal: Journal, key: str, utterances: Iterable[tuple[str, Utterance]]) -> SystemRun:
    known = journal.system(key)
    run = SystemRun(system, known.get("load_ms"), known.get("peak_rss_bytes"))
    for name, utterance in utterances:
        record = journal.utterance(key, name) or {"failure": "it was not transcribed"}
        if "failure" in record:
            run.failures[utterance.id] = str(record["failure"])
            continue
        stages = {stage: (float(ms), int(runs)) for stage, (ms, runs) in record["stages"].items()}
        run.heard[utterance.id] = Heard(record["text"], record["audio_s"], record["wall_ms"], stages)
        peak = record.get("peak_rss_bytes")
        run.peak_rss_bytes = max(run.peak_rss_bytes or 0, peak) if peak else run.peak_rss_bytes
    return run
