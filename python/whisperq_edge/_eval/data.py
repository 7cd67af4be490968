"""Sets of utterances: what was said, in which file, by whom.

- a manifest: ``.tsv``, ``.csv`` or ``.jsonl``, with a column for the audio and one for the text, under any of the names
  that the common corpora use; paths count from the manifest's folder (or ``clips/`` in it, as Common Voice has it);
- a folder with a manifest in it (``manifest.tsv`` ...);
- a LibriSpeech folder: ``<speaker>/<chapter>/<speaker>-<chapter>.trans.txt`` at any depth;
- a folder of audio files, each with a ``.txt`` of the same name beside it.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from .._errors import DatasetError, OptionError

__all__ = ["Dataset", "Utterance", "load_dataset"]

AUDIO_COLUMNS = ("file", "audio", "path", "audio_filepath", "audio_path", "wav", "filename")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "reference")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk")
AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm", ".aiff", ".aif", ".au", ".caf")
_MANIFESTS = ("manifest.tsv", "manifest.csv", "manifest.jsonl")
_MOST_BYTES = 1 << 30

PathLike = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Utterance:
    """One recording.

    Attributes:
        id: its path as the set names it; unique in the set.
        audio: the file.
        text: what was said, as written down; may be empty where nobody speaks.
        speaker: None where it is not known.
    """

    id: str
    audio: Path
    text: str
    speaker: Optional[str] = None


@dataclass(frozen=True)
class Dataset:
    """Utterances in the order of the set.

    Attributes:
        path: where it was read from.
        layout: ``manifest``, ``librispeech`` or ``folder``.
        utterances: at least one.
        n_all: of the set, before ``limit``.
    """

    path: Path
    layout: str
    utterances: list[Utterance]
    n_all: int

    @property
    def speakers(self) -> Optional[list[str]]:
        """Of each utterance; None where one is not known."""
        names = [each.speaker for each in self.utterances]
        return None if None in names else [name for name in names if name is not None]


@dataclass(frozen=True)
class _Row:
    line: int
    utterance: Utterance
    split: Optional[str]


def load_dataset(path: PathLike, *, split: Optional[str] = None, limit: Optional[int] = None) -> Dataset:
    """A set of utterances.

    Args:
        path: a manifest or a folder (see the module).
        split: only rows with this value in the column ``split``.
        limit: so many utterances, spread evenly over the set, so that no speaker is preferred; always the same ones.

    Raises:
        DatasetError: nothing is there, or something in it is not as it must be; with the line.
        OptionError: a limit below 1, or a split of a set that has none.
    """
    if limit is not None and limit < 1:
        raise OptionError("limit", limit, "a number from 1 on")
    place = Path(path).expanduser()
    if not place.exists():
        raise DatasetError(str(place), None, "there is no such file or folder")
    layout, utterances = _read(place, split)
    if not utterances:
        raise DatasetError(str(place), None, "there is no utterance in it")
    _check_files(place, utterances)
    chosen = utterances if limit is None else _spread(utterances, limit)
    return Dataset(place, layout, [row.utterance for row in chosen], len(utterances))


def _read(place: Path, split: Optional[str]) -> tuple[str, list[_Row]]:
    manifest = place if place.is_file() else next((place / m for m in _MANIFESTS if (place / m).is_file()), None)
    if manifest is not None:
        return "manifest", _of_split(_check_unique(manifest, _read_manifest(manifest)), split, manifest)
    if split is not None:
        raise OptionError("split", split, f"only with a manifest, and {place} has none")
    indexes = sorted(place.rglob("*.trans.txt"))
    if indexes:
        return "librispeech", [row for index in indexes for row in _read_librispeech(place, index)]
    return "folder", _read_folder(place)


def _spread(rows: list[_Row], limit: int) -> list[_Row]:
    n = len(rows)
    return rows if n <= limit else [rows[i * n // limit] for i in range(limit)]


def _check_files(place: Path, rows: Sequence[_Row]) -> None:
    missing = [row for row in rows if not row.utterance.audio.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(rows)})" if len(missing) > 1 else ""
        first = missing[0]
        raise DatasetError(str(place), first.line or None, f"the audio file {first.utterance.audio} is missing{more}")


# ---- Manifests -------------------------------------------------------------------------------------------------------


def _read_manifest(path: Path) -> list[_Row]:
    readers = {".tsv": _read_table, ".csv": _read_table, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(str(path), None, f"a manifest is a {', '.join(readers)} file")
    return [_row(path, line, values) for line, values in reader(path)]


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DatasetError(str(path), None, f"it is larger than {_MOST_BYTES >> 20} MiB, too large for a manifest")
        raw = path.read_bytes()
    except OSError as error:
        raise DatasetError(str(path), None, f"it cannot be read: {error.strerror}") from error
    try:
        lines = raw.decode("utf-8-sig").split("\n")
        return lines if lines[-1] else lines[:-1]
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DatasetError(str(path), line, f"byte {raw[error.start]:#04x} is no UTF-8") from None


def _read_table(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Of a tsv file quotes are letters like any other, as Common Voice has it."""
    is_tsv = path.suffix.lower() == ".tsv"
    lines = [line.rstrip("\r") + "\n" for line in _lines(path)]
    reader = (
        csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        if is_tsv
        else csv.reader(lines, strict=True)
    )
    header: Optional[list[str]] = None
    end_of_last = 0
    try:
        for cells in reader:
            end_of_last = reader.line_num
            if not cells or cells == [""]:
                continue
            if header is None:
                header = _header(path, cells, reader.line_num)
            elif len(cells) != len(header):
                found = f"{len(cells)} columns where the first line has {len(header)}"
                raise DatasetError(str(path), reader.line_num, found)
            else:
                yield reader.line_num, dict(zip(header, cells))
    except csv.Error as error:
        raise DatasetError(str(path), end_of_last + 1, f"the table cannot be read: {error}") from error


def _header(path: Path, cells: list[str], line: int) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    for what, columns in (("the audio", AUDIO_COLUMNS), ("the text", TEXT_COLUMNS)):
        if not any(column in names for column in columns):
            found = ", ".join(map(repr, cells[:20]))
            raise DatasetError(
                str(path), line, f"no column for {what}: {' or '.join(columns)} is needed, there is {found}"
            )
    return names


def _read_jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(str(path), number, f"no JSON: {error}") from None
        if not isinstance(values, dict):
            raise DatasetError(str(path), number, f"a JSON object is needed, not {type(values).__name__}")
        yield number, {str(name).lower(): value for name, value in values.items()}


def _row(path: Path, line: int, values: Mapping[str, Any]) -> _Row:
    file = _cell(path, line, values, "the audio", AUDIO_COLUMNS)
    if not file.strip() or "\0" in file:
        raise DatasetError(str(path), line, f"{file!r} is no name of an audio file")
    text = _cell(path, line, values, "the text", TEXT_COLUMNS)
    speaker = next((str(values[name]) for name in SPEAKER_COLUMNS if values.get(name) not in (None, "")), None)
    split = None if values.get("split") is None else str(values["split"])
    return _Row(line, Utterance(file, _audio_path(path.parent, file), text, speaker), split)


def _cell(path: Path, line: int, values: Mapping[str, Any], what: str, columns: Sequence[str]) -> str:
    column = next((name for name in columns if name in values), None)
    if column is None:
        raise DatasetError(str(path), line, f"{what} is missing: {' or '.join(columns)} is needed")
    value = values[column]
    if not isinstance(value, str):
        raise DatasetError(str(path), line, f"{column} is {value!r}: text is needed")
    return value


def _audio_path(folder: Path, file: str) -> Path:
    path = folder / file
    in_clips = folder / "clips" / file
    return in_clips if not path.is_file() and in_clips.is_file() else path


def _check_unique(path: Path, rows: list[_Row]) -> list[_Row]:
    lines: dict[str, int] = {}
    for row in rows:
        earlier = lines.setdefault(row.utterance.id, row.line)
        if earlier != row.line:
            raise DatasetError(str(path), row.line, f"{row.utterance.id} stands in line {earlier} already")
    return rows


def _of_split(rows: list[_Row], split: Optional[str], path: Path) -> list[_Row]:
    if split is None:
        return rows
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        known = sorted({row.split for row in rows if row.split is not None})
        raise OptionError("split", split, f"one of {', '.join(known)}" if known else f"{path} has no column split")
    return chosen


# ---- Folders ---------------------------------------------------------------------------------------------------------


def _read_librispeech(place: Path, index: Path) -> Iterator[_Row]:
    """Lines ``<id> <TEXT>``; the speaker is the first number of the id."""
    for number, line in enumerate(_lines(index), start=1):
        if not line.strip():
            continue
        id, _, text = line.strip().partition(" ")
        beside = [index.parent / f"{id}{suffix}" for suffix in AUDIO_SUFFIXES if not set(id) & set("/\\\0")]
        audio = next((path for path in beside if path.is_file()), None)
        if audio is None:
            raise DatasetError(str(index), number, f"there is no audio file {id}.flac beside it")
        yield _Row(number, Utterance(audio.relative_to(place).as_posix(), audio, text, id.split("-")[0]), None)


def _read_folder(place: Path) -> list[_Row]:
    files = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]
    if not files:
        kinds = f"a manifest ({', '.join(_MANIFESTS)}), a *.trans.txt, or audio files with a .txt beside each"
        raise DatasetError(str(place), None, f"there is no utterance in it: looked for {kinds}")
    return [_from_pair(place, audio) for audio in files]


def _from_pair(place: Path, audio: Path) -> _Row:
    beside = audio.with_suffix(".txt")
    if not beside.is_file():
        raise DatasetError(str(audio), None, f"its text is missing: {beside.name} beside it")
    return _Row(0, Utterance(audio.relative_to(place).as_posix(), audio, " ".join(_lines(beside)).strip()), None)
