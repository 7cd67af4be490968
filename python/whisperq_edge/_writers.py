"""Transcripts as txt, vtt, srt, tsv and json, in openai/whisper's layout to the byte.

The layout differs where openai/whisper crashes or writes files that no reader can read. A negative time is written as
zero, and NaN in JSON as null. A segment without words between segments with words is one word. Lines end in ``\\n`` on
every system.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Optional, Union

from ._errors import OptionError
from ._result import Segment, Transcript, Word
from ._system.checks import check_whole
from ._system.files import atomic_write

__all__ = ["FORMATS", "render", "write", "write_all"]

FORMATS = ("txt", "vtt", "srt", "tsv", "json")
"""The formats, in openai/whisper's order. ``write_all`` also takes ``"all"``."""

_LONG_PAUSE_S = 3.0
"""With free line wrapping, a pause longer than this between the starts of two words starts a new cue."""

_UNLIMITED = 1000
"""openai/whisper's stand-in for "no limit" on characters and on words. Part of the layout: lines do wrap there."""


def render(
    transcript: Transcript,
    format: str,
    *,
    highlight_words: bool = False,
    max_line_width: Optional[int] = None,
    max_line_count: Optional[int] = None,
    max_words_per_line: Optional[int] = None,
) -> str:
    """Return the transcript as text in one of ``FORMATS``.

    The options shape only vtt and srt, and only where the segments have words.

    Args:
        format: one of ``FORMATS``.
        highlight_words: make a cue for each word and underline the spoken word.
        max_line_width: characters in a line. None: 1000.
        max_line_count: lines in a cue. Together with ``max_line_width`` it lets cues run across segments.
        max_words_per_line: words in a cue. It has no effect when both limits on lines are set.
    """
    cues = CueLayout(
        highlight_words,
        _limit("max_line_width", max_line_width),
        _limit("max_line_count", max_line_count),
        _limit("max_words_per_line", max_words_per_line),
    )
    if format == "txt":
        return "".join(f"{segment.text.strip()}\n" for segment in transcript)
    if format == "vtt":
        return _vtt(transcript, cues)
    if format == "srt":
        return _srt(transcript, cues)
    if format == "tsv":
        return _tsv(transcript)
    if format == "json":
        return json.dumps(transcript.to_openai_dict())
    raise OptionError("format", format, f"one of {', '.join(FORMATS)}")


def write(
    transcript: Transcript, format: str, file_or_path: Union[str, os.PathLike[str], IO[str]], **options: Any
) -> None:
    """Write the transcript to a text stream or to a path. A file appears whole or not at all.

    Args:
        format: one of ``FORMATS``.
        options: the options of ``render``.
    """
    text = render(transcript, format, **options)
    if isinstance(file_or_path, (str, os.PathLike)):
        _write_file(file_or_path, text)
    else:
        file_or_path.write(text)


def write_all(
    transcript: Transcript,
    formats: Union[str, Iterable[str]],
    output_dir: Union[str, os.PathLike[str]],
    stem: str,
    **options: Any,
) -> list[Path]:
    """Write ``output_dir/stem.<format>`` for each format, and return the paths. Create the directory if need be.

    Args:
        formats: one of ``FORMATS``, several, or ``"all"``.
        stem: file name without extension.
        options: the options of ``render``.
    """
    if not stem or os.path.basename(stem) != stem:
        raise OptionError("stem", stem, "a file name without a directory")
    # Everything is rendered before the first file is written: a wrong option leaves no file behind.
    texts = {format: render(transcript, format, **options) for format in _expand(formats)}
    os.makedirs(output_dir, exist_ok=True)
    paths = []
    for format, text in texts.items():
        path = Path(output_dir) / f"{stem}.{format}"
        _write_file(path, text)
        paths.append(path)
    return paths


def _expand(formats: Union[str, Iterable[str]]) -> tuple[str, ...]:
    asked = (formats,) if isinstance(formats, str) else tuple(formats)
    return FORMATS if "all" in asked else asked


def _write_file(path: Union[str, os.PathLike[str]], text: str) -> None:
    with atomic_write(path, "wb") as stream:
        stream.write(text.encode("utf-8", errors="replace"))  # a lone surrogate has no UTF-8


_MOST = 2**31 - 1


def _limit(field: str, value: Optional[int]) -> Optional[int]:
    return None if value is None else check_whole(field, value, 1, _MOST, "a whole number of at least 1, or None")


def _vtt(transcript: Transcript, cues: CueLayout) -> str:
    body = "".join(
        f"{_clock(cue.start_s, '.', False)} --> {_clock(cue.end_s, '.', False)}\n{cue.text}\n\n"
        for cue in cues.of(transcript.segments)
    )
    return f"WEBVTT\n\n{body}"


def _srt(transcript: Transcript, cues: CueLayout) -> str:
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',', True)} --> {_clock(cue.end_s, ',', True)}\n{cue.text}\n\n"
        for number, cue in enumerate(cues.of(transcript.segments), start=1)
    )


def _tsv(transcript: Transcript) -> str:
    rows = (
        f"{_milliseconds(segment.start)}\t{_milliseconds(segment.end)}\t{_no_tabs(segment.text.strip())}\n"
        for segment in transcript
    )
    return "start\tend\ttext\n" + "".join(rows)


def _no_tabs(text: str) -> str:
    return text.replace("\t", " ")


def _milliseconds(time_s: float) -> int:
    """Rounded half to even, as Python rounds."""
    return max(round(time_s * 1000.0), 0)


def _clock(time_s: float, decimal_marker: str, always_hours: bool) -> str:
    minutes, milliseconds = divmod(_milliseconds(time_s), 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, milliseconds = divmod(milliseconds, 1000)
    hours_part = f"{hours:02d}:" if hours or always_hours else ""
    return f"{hours_part}{minutes:02d}:{seconds:02d}{decimal_marker}{milliseconds:03d}"


@dataclass(frozen=True)
class Cue:
    """One subtitle: what to show, and from when to when."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class CueLayout:
    """How segments become subtitles."""

    highlight_words: bool
    max_line_width: Optional[int]
    max_line_count: Optional[int]
    max_words_per_line: Optional[int]

    def of(self, segments: list[Segment]) -> Iterator[Cue]:
        """The cues of a transcript. Whether it has words is told by its first segment, as openai/whisper does."""
        if not segments or segments[0].words is None:
            for segment in segments:
                yield Cue(segment.start, segment.end, segment.text.strip().replace("-->", "->"))
            return
        for words in self._groups(segments):
            yield from _highlighted(words) if self.highlight_words else [_joined(words)]

    @property
    def _cues_keep_to_segments(self) -> bool:
        return self.max_line_count is None or self.max_line_width is None

    def _groups(self, segments: list[Segment]) -> Iterator[list[Word]]:
        """The words of each cue. Leading spaces at a line's start are gone and line breaks are in the words' text."""
        width = self.max_line_width or _UNLIMITED
        cue: list[Word] = []
        line_length, line_count = 0, 1
        previous_start_s: Optional[float] = None
        for word, opens_chunk in self._words(segments):
            keep = self._cues_keep_to_segments
            pause_s = word.start - (word.start if previous_start_s is None else previous_start_s)
            long_pause = not keep and pause_s > _LONG_PAUSE_S
            chunk_break = keep and opens_chunk and bool(cue)
            previous_start_s = word.start
            fits = line_length + len(word.word) <= width
            if line_length and fits and not long_pause and not chunk_break:
                cue.append(word)
                line_length += len(word.word)
                continue

            text = word.word.strip()
            cue_is_full = self.max_line_count is not None and (long_pause or line_count >= self.max_line_count)
            if chunk_break or (cue and cue_is_full):
                yield cue
                cue, line_count = [], 1
                cue.append(_with_text(word, text))
            elif line_length:
                line_count += 1
                cue.append(_with_text(word, f"\n{text}"))
            else:
                cue.append(_with_text(word, text))
            line_length = len(text)
        if cue:
            yield cue

    def _words(self, segments: list[Segment]) -> Iterator[tuple[Word, bool]]:
        """Every word, and whether it opens a chunk: a segment, or ``max_words_per_line`` words of it."""
        chunk = self.max_words_per_line or _UNLIMITED
        for segment in segments:
            for position, word in enumerate(_words_of(segment)):
                yield word, position % chunk == 0


def _words_of(segment: Segment) -> list[Word]:
    if segment.words is not None:
        return segment.words
    return [Word(segment.start, segment.end, segment.text, 1.0)] if segment.text.strip() else []


def _with_text(word: Word, text: str) -> Word:
    return Word(word.start, word.end, text, word.probability)


def _joined(words: list[Word]) -> Cue:
    return Cue(words[0].start, words[-1].end, "".join(word.word for word in words))


def _highlighted(words: list[Word]) -> Iterator[Cue]:
    """One cue per word with that word underlined, and a plain cue for each gap between words."""
    whole = _joined(words)
    texts = [word.word for word in words]
    shown_until_s = whole.start_s
    for position, word in enumerate(words):
        # Gaps are judged as they are printed: half a millisecond is none.
        if _milliseconds(shown_until_s) != _milliseconds(word.start):
            yield Cue(shown_until_s, word.start, whole.text)
        marked = [*texts[:position], _underlined(word.word), *texts[position + 1 :]]
        yield Cue(word.start, word.end, "".join(marked))
        shown_until_s = word.end


def _underlined(text: str) -> str:
    """``text`` in <u> tags, its leading spaces and line break left outside; text over two lines stays as it is."""
    body = text.lstrip()
    line, line_break, rest = body.partition("\n")
    if rest:
        return text
    return f"{text[: len(text) - len(body)]}<u>{line}</u>{line_break}"
