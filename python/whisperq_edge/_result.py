"""The results of a call: ``Transcript`` with its ``Segment`` and ``Word`` objects, and ``Timings``.

Field names are those of openai/whisper and faster-whisper. Times are float seconds from the start of the audio.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

__all__ = [
    "STAGES",
    "Dropped",
    "EngineResult",
    "Segment",
    "StageTime",
    "Timings",
    "Transcript",
    "Word",
    "compression_ratio",
    "join_text",
]

STAGES = (
    "load",
    "audio_decode",
    "vad",
    "mel",
    "encode",
    "prompt",
    "decode",
    "batchd",
    "sample",
)
"""The stages that are measured. ``Timings`` adds ``other`` and ``total``."""

_ROWS = (*STAGES, "other", "total")

# The rows of `Timings.table`: the order and the wording of the tables in arXiv 2503.09905.
_TABLE_LABELS = {
    "load": "Load",
    "audio_decode": "Audio decode",
    "vad": "VAD",
    "mel": "Mel",
    "sample": "Sample",
    "encode": "Encode",
    "decode": "Decode",
    "batchd": "Batchd",
    "prompt": "Prompt",
    "other": "Other",
    "total": "Total",
}


def compression_ratio(text: str) -> float:
    """Return the UTF-8 bytes of ``text`` per byte of its zlib compression. High means repetitive; empty gives 0.0."""
    raw = text.encode("utf-8", errors="replace")
    return len(raw) / len(zlib.compress(raw))


@dataclass(frozen=True)
class Word:
    """A word with its time.

    Attributes:
        start: seconds (float).
        end: seconds (float).
        word: the text as decoded, with its leading space.
        probability: mean probability of the word's tokens, 0 to 1 (float).
    """

    start: float
    end: float
    word: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return the word in openai/whisper's layout. A value that JSON cannot hold (NaN, Inf) is None."""
        return {
            "word": self.word,
            "start": _finite(self.start),
            "end": _finite(self.end),
            "probability": _finite(self.probability),
        }


@dataclass(frozen=True)
class Segment:
    """A piece of text with its time.

    Attributes:
        id: position in the transcript, from 0 (int).
        seek: start of the window that the segment was decoded in, in frames of 10 ms (int).
        start: seconds (float).
        end: seconds (float).
        text: the text as decoded, with its leading space.
        tokens: token ids (list of int), timestamp tokens included.
        temperature: the sampling temperature that gave this text (float).
        avg_logprob: mean natural log probability per token (float, at most 0).
        compression_ratio: see ``whisperq_edge._result.compression_ratio`` (float).
        no_speech_prob: probability that the window holds no speech, 0 to 1 (float).
        words: the words, or None when word times were not asked for.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: Optional[list[Word]] = None

    def to_dict(self) -> dict[str, Any]:
        """Return the segment in openai/whisper's layout. ``words`` is there only where word times were asked for."""
        layout: dict[str, Any] = {
            "id": int(self.id),
            "seek": int(self.seek),
            "start": _finite(self.start),
            "end": _finite(self.end),
            "text": self.text,
            "tokens": [int(token) for token in self.tokens],
            "temperature": _finite(self.temperature),
            "avg_logprob": _finite(self.avg_logprob),
            "compression_ratio": _finite(self.compression_ratio),
            "no_speech_prob": _finite(self.no_speech_prob),
        }
        if self.words is not None:
            layout["words"] = [word.to_dict() for word in self.words]
        return layout


def join_text(segments: Sequence[Segment]) -> str:
    """Return the text of a whole transcript: the segments' text end to end, with spaces as decoded."""
    return "".join(segment.text for segment in segments)


@dataclass(frozen=True)
class StageTime:
    """The time spent in one stage.

    Attributes:
        ms: wall-clock milliseconds over all runs (float).
        runs: how often the stage ran (int).
    """

    ms: float = 0.0
    runs: int = 0

    @property
    def ms_per_run(self) -> float:
        """Return the milliseconds per run; 0.0 for a stage that never ran."""
        return self.ms / self.runs if self.runs else 0.0

    def __add__(self, more: StageTime) -> StageTime:
        return StageTime(self.ms + more.ms, self.runs + more.runs)


class Timings(Mapping[str, StageTime]):
    """An immutable mapping of stage name to ``StageTime``. It always has all stages, in a fixed order.

    ``other`` is the time that no stage measured. The rows before ``total`` sum to ``total`` (to float rounding).
    """

    __slots__ = ("_rows",)

    def __init__(self, stages: Mapping[str, StageTime], total_ms: float, *, runs: int = 1) -> None:
        """
        Args:
            stages: measured stages, any of ``STAGES``; one that is missing did not run.
            total_ms: wall-clock milliseconds of the whole call.
            runs: calls that the total covers.
        """
        unknown = sorted(set(stages) - set(STAGES))
        if unknown:
            raise ValueError(f"unknown stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
        measured = {name: stages.get(name, StageTime()) for name in STAGES}
        # Two clocks, or one that was read twice, may disagree by a tick: the stages are right and the total follows.
        spent_ms = math.fsum(stage.ms for stage in measured.values())
        other_ms = max(total_ms - spent_ms, 0.0)
        self._rows: dict[str, StageTime] = {
            **measured,
            "other": StageTime(other_ms, runs),
            "total": StageTime(max(total_ms, spent_ms), runs),
        }

    @classmethod
    def zero(cls) -> Timings:
        """Return timings of no call: the start of a sum."""
        return cls({}, 0.0, runs=0)

    def __getitem__(self, name: str) -> StageTime:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_ROWS)

    def __len__(self) -> int:
        return len(_ROWS)

    def __add__(self, more: Timings) -> Timings:
        """Return the timings of both calls together."""
        if not isinstance(more, Timings):
            return NotImplemented
        stages = {name: self[name] + more[name] for name in STAGES}
        return Timings(stages, self["total"].ms + more["total"].ms, runs=self["total"].runs + more["total"].runs)

    def __repr__(self) -> str:
        ran = ", ".join(f"{name}={row.ms:.2f} ms/{row.runs}" for name, row in self.items() if row.runs)
        return f"Timings({ran})"

    def __reduce__(self) -> Any:
        return _unpickle_timings, ({name: self[name] for name in STAGES}, self["total"].ms, self["total"].runs)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return ``{stage: {"ms": float, "runs": int}}`` in the fixed order."""
        return {name: {"ms": row.ms, "runs": row.runs} for name, row in self.items()}

    def table(self, title: str = "") -> str:
        """Return the timings as aligned text: stage, ms, runs, ms per run. The printed ms sum to the printed total."""
        shown = self._rounded(decimals=2)
        lines = [f"{'Stage':<14}{'ms':>14}{'runs':>9}{'ms/run':>12}"]
        for name, label in _TABLE_LABELS.items():
            row = shown[name]
            per_run = f"{self[name].ms_per_run:.2f}" if row.runs else "-"
            lines.append(f"{label:<14}{row.ms:>14.2f}{row.runs:>9}{per_run:>12}")
        return "\n".join([title, *lines] if title else lines)

    def _rounded(self, decimals: int) -> Timings:
        """Each stage rounded by itself and ``other`` taken anew, so that rounded rows still sum to their total."""
        stages = {name: StageTime(round(self[name].ms, decimals), self[name].runs) for name in STAGES}
        return Timings(stages, round(self["total"].ms, decimals), runs=self["total"].runs)


def _unpickle_timings(stages: dict[str, StageTime], total_ms: float, runs: int) -> Timings:
    return Timings(stages, total_ms, runs=runs)


@dataclass(frozen=True)
class Dropped:
    """A part of the audio that was not decoded, or whose text was not believed.

    Attributes:
        start: seconds (float).
        end: seconds (float).
        reason: ``silence``, or why the text was not believed, with that text.
    """

    start: float
    end: float
    reason: str


@dataclass(frozen=True)
class EngineResult:
    """What an engine has to say beside the segments and languages that it reported on the way.

    Attributes:
        n_short_windows, n_redone_windows: see ``Transcript``.
        interrupt: the Ctrl-C that ended the call. It is carried here, so that times and dropped parts are not lost.
    """

    stages: dict[str, StageTime]
    stopped: bool
    dropped: tuple[Dropped, ...] = ()
    interrupt: Optional[KeyboardInterrupt] = None
    n_short_windows: int = 0
    n_redone_windows: int = 0


@dataclass(frozen=True)
class Transcript:
    """The text of one audio. Iterating gives its segments.

    Attributes:
        text: the segments' text end to end.
        segments: in order of time.
        language: language code, such as ``en``.
        language_probability: 0 to 1; 1.0 when the language was given (float).
        duration_s: seconds of audio (float).
        timings: the time of each stage in this call.
        options: the options that this call ran with, defaults filled in.
        model: the model's name or path.
        dropped: parts in which nobody speaks, in order of time. They were not decoded, or their text was not believed.
        damage: sentences about audio that was not read, because the file is cut off or damaged. They say where. Empty:
            all of the file was read.
        n_short_windows: windows that were encoded as far as their audio goes, and not in full.
        n_redone_windows: of these, those whose text looked wrong. They were done again in full.
    """

    text: str
    segments: list[Segment]
    language: str
    language_probability: float
    duration_s: float
    timings: Timings = field(repr=False)
    options: Any = field(repr=False)
    model: str
    dropped: tuple[Dropped, ...] = ()
    damage: tuple[str, ...] = ()
    n_short_windows: int = 0
    n_redone_windows: int = 0

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    def to_openai_dict(self) -> dict[str, Any]:
        """Return the dict of openai/whisper's ``transcribe``: ``text``, ``segments`` and ``language``, no more."""
        return {
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "language": self.language,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for ``json.dump``: openai/whisper's keys first, then ours."""
        return {
            **self.to_openai_dict(),
            "language_probability": _finite(self.language_probability),
            "duration_s": _finite(self.duration_s),
            "timings": self.timings.to_dict(),
            "options": _jsonable(self.options),
            "model": str(self.model),
            "dropped": _jsonable(self.dropped),
            "damage": _jsonable(self.damage),
            "n_short_windows": self.n_short_windows,
            "n_redone_windows": self.n_redone_windows,
        }


def _finite(value: float) -> Optional[float]:
    """A plain float (also from a numpy scalar), or None for NaN and Inf, which JSON cannot write."""
    number = float(value)
    return number if math.isfinite(number) else None


def _jsonable(value: Any) -> Any:
    """``value`` out of what JSON knows. What JSON does not know becomes its text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _jsonable(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(item) for item in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(value)
    if callable(getattr(value, "tolist", None)):
        return _jsonable(value.tolist())
    return str(value)
