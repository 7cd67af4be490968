"""The streams that an audio file is joined of, and headers whose lengths are wrong.

libsndfile reads the first stream of a chained Ogg file, or of FLAC, WAV and MP3 files that were joined, and stops there
without a word. It also believes a WAV header that says there are no samples, as recorders leave it that were killed.
Here a file is cut into its streams and such headers are put right, so that all of it is read.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Optional

from .mp3 import is_mp3, mp3_parts
from .spliced import Part, overlaid, spliced

__all__ = ["parts_of"]

_READ_BYTES = 2**20
_UNKNOWN_BYTES = 0x7FFF_0000  # programs that write to a pipe claim this or more, as they cannot know how much will come
_LEAST_REST_S = 0.25  # bytes behind the samples that would last less hold no word
_LONGEST_RIFF = 2**30  # samples of a larger file are read in parts of this many bytes

_OGG_FIRST_PAGE = re.compile(rb"OggS\0[\2\3\6\7]\0{8}")
_FLAC_START = re.compile(rb"fLaC[\0\x80]\0\0\x22")
_FLAC_FILE = re.compile(rb"(?<!\x7fFLAC\x01\0..)" + _FLAC_START.pattern, re.DOTALL)  # not the first page of Ogg's
_SAMPLES_START = re.compile(  # with the name of a chunk, or all of an AU header
    rb"RI(?:FF|FX)....WAVE[ -~]{4}|RF64....WAVEds64|FORM....AIF[FC][ -~]{4}"
    rb"|\.snd\0\0..[\0-\xff]{4}\0\0\0[\1-\x1b]\0[\0-\x0b]..\0\0\0[\1-\x20]",
    re.DOTALL,
)
_CAF_START = re.compile(rb"caff\x00\x01\x00\x00desc")
_MP4_START = re.compile(rb"\0\0\0[\x0c-\xff]ftyp[ -~]{4}")
_LONGEST_START = 32

# A name to look for, where it lies, and the whole. Looking for names is ten times as fast as for one pattern of all.
_STARTS = (
    *((name, 0, _SAMPLES_START) for name in (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd\0\0")),
    (b"OggS\0", 0, _OGG_FIRST_PAGE),
    (b"fLaC", 0, _FLAC_FILE),
    (b"caff", 0, _CAF_START),
    (b"ftyp", 4, _MP4_START),
)


def parts_of(stream: IO[bytes]) -> list[Part]:
    """The streams that a file holds, in order: at least one, which may be all of the file."""
    size = stream.seek(0, os.SEEK_END)
    parts: list[Part] = []
    start = 0
    while start < size:
        found, start = _first_parts(stream, start, size)
        parts += found
    stream.seek(0)
    return parts or [Part(stream)]


def _first_parts(stream: IO[bytes], start: int, size: int) -> tuple[list[Part], int]:
    """The streams of one kind that lie one after the other from ``start`` on, and where those of another kind begin."""
    stream.seek(start)
    head = stream.read(_LONGEST_START)
    if _begins_with_samples(head):
        return _sample_parts(stream, start, size)
    if head[:4] == b"OggS":
        end = _next_of(stream, start, size, but=_OGG_FIRST_PAGE)
        piece = _piece(stream, start, end, size)
        return _cut_at(piece, end - start, _ogg_starts(piece)), end
    if head[:4] == b"fLaC":
        end = _next_of(stream, start, size, but=_FLAC_FILE)
        piece = _piece(stream, start, end, size)
        return _cut_at(piece, end - start, [place for place, _ in _found(piece, _FLAC_START)]), end
    if head[:4] == b"caff" or _MP4_START.match(head):
        end = _behind_caf(stream, start, size) if head[:4] == b"caff" else _behind_boxes(stream, start, size)
        return [Part(_piece(stream, start, end, size))], end
    piece = _piece(stream, start, size, size)
    if is_mp3(piece):
        # One whose frames do not tell their length is libsndfile's alone.
        return mp3_parts(piece) or [Part(piece, tells_length=False)], size
    return [Part(piece)], size


def _piece(stream: IO[bytes], start: int, end: int, size: int) -> IO[bytes]:
    return stream if (start, end) == (0, size) else spliced(stream, [(start, end)])


def _next_of(stream: IO[bytes], start: int, size: int, but: Optional[re.Pattern[bytes]] = None) -> int:
    """Where a stream, but of the kind ``but``, begins behind ``start``; else the end of the file."""
    stream.seek(start + 1)
    at, kept = start + 1, b""
    while content := stream.read(_READ_BYTES):
        block = kept + content
        places = [place for name in _STARTS if name[2] is not but for place in _places(block, *name, len(kept))]
        if places:
            return at + min(places)
        kept = block[-2 * _LONGEST_START :]
        at += len(block) - len(kept)
    return size


def _places(block: bytes, name: bytes, offset: int, pattern: re.Pattern[bytes], n_seen: int) -> Iterator[int]:
    """Places of a pattern that end behind the bytes that were seen before."""
    place = block.find(name)
    while place >= 0:
        found = pattern.match(block, place - offset) if place >= offset else None
        if found is not None and found.end() > n_seen:
            yield found.start()
        place = block.find(name, place + 1)


def _begins_a_stream(head: bytes) -> bool:
    return _begins_with_samples(head) or any(pattern.match(head) for _, _, pattern in _STARTS)


def _behind_caf(stream: IO[bytes], start: int, size: int) -> int:
    """Where another stream begins behind the chunks of a CAF file; else the end of the file."""
    place = start + 8
    while place + 12 <= size:
        stream.seek(place)
        head = stream.read(_LONGEST_START)
        if _begins_a_stream(head):
            return place
        n_bytes = struct.unpack(">q", head[4:12])[0]
        if n_bytes < 0:  # a recorder that was killed
            return _next_of(stream, place, size)
        place += 12 + n_bytes
    return size


def _behind_boxes(stream: IO[bytes], start: int, size: int) -> int:
    """Where another stream begins behind the boxes of an MP4 file; else the end of the file."""
    place = start
    while place + 8 <= size:
        stream.seek(place)
        head = stream.read(_LONGEST_START)
        if place > start and _begins_a_stream(head):
            return place
        n_bytes = struct.unpack(">I", head[:4])[0]
        if n_bytes == 1 and len(head) >= 16:
            n_bytes = struct.unpack(">Q", head[8:16])[0]
        if n_bytes < 8:  # 0: it goes on to the end of the file
            return size
        place += n_bytes
    return size


def _cut_at(stream: IO[bytes], size: int, starts: list[int]) -> list[Part]:
    edges = [0, *starts[1:], size]
    return [Part(_piece(stream, *edge, size)) for edge in zip(edges, edges[1:])]


def _found(stream: IO[bytes], pattern: re.Pattern[bytes], overlap: int = 16) -> Iterator[tuple[int, bytes]]:
    """Places where a pattern of at most ``overlap`` bytes matches, and what it matches."""
    stream.seek(0)
    start, kept = 0, b""
    while content := stream.read(_READ_BYTES):
        block = kept + content
        for found in pattern.finditer(block):
            if found.end() > len(kept):  # not seen in the block before
                yield start + found.start(), found.group()
        kept = block[-overlap + 1 :]
        start += len(block) - len(kept)


# ---- Ogg -------------------------------------------------------------------------------------------------------------


def _ogg_starts(stream: IO[bytes]) -> list[int]:
    """Where links of the chain begin. A link begins with the first page of each of its streams."""
    starts: list[int] = []
    end_before = None
    for place in [place for place, _ in _found(stream, _OGG_FIRST_PAGE)]:
        if place != end_before:
            starts.append(place)
        stream.seek(place)
        page = stream.read(27 + 255)
        end_before = place + 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 27 else None
    return starts


# ---- WAV, AIFF and AU ------------------------------------------------------------------------------------------------


@dataclass
class _Samples:
    """Samples in a file, and what its header says of them.

    Attributes:
        start: first byte of the header.
        at: where the samples begin.
        claimed: bytes of samples, as the header has it.
        size_field: place and layout of that number.
        extra: bytes that the number counts besides.
        byte_rate: bytes a second, as far as it is known.
        frame_bytes: bytes that go together.
    """

    start: int
    at: int
    claimed: int
    size_field: tuple[int, str]
    extra: int = 0
    byte_rate: int = 16_000
    frame_bytes: int = 1

    @property
    def end(self) -> int:
        return self.at + self.claimed

    @property
    def is_long(self) -> bool:
        return self.size_field[1] == "<Q"

    @property
    def is_unknown(self) -> bool:
        """Whether the number is one that programs write before they know it."""
        return self.claimed <= 0 or self.claimed >= (2**62 if self.is_long else _UNKNOWN_BYTES)


def _begins_with_samples(head: bytes) -> bool:
    is_wav = head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE"
    return is_wav or (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")) or head[:4] == b".snd"


def _sample_parts(stream: IO[bytes], start: int, size: int) -> tuple[list[Part], int]:
    parts: list[Part] = []
    place: Optional[int] = start
    while place is not None:
        stream.seek(place)
        if not _begins_with_samples(stream.read(12)):
            return parts, place
        samples = _read_header(stream, place, size)
        if samples is None:
            # libsndfile says why it does not read this one.
            return [*parts, Part(_piece(stream, place, size, size))], size
        place = _next_file(stream, samples, size)
        end = size if place is None else place
        parts += _parts_with(stream, samples, end, is_only=(samples.start, end) == (0, size))
    return parts, size


def _read_header(stream: IO[bytes], start: int, size: int) -> Optional[_Samples]:
    """None: it has no samples."""
    stream.seek(start)
    head = stream.read(24)
    if head[:4] == b".snd" and len(head) == 24:
        header_bytes, claimed = struct.unpack(">4xII", head[:12])
        claimed = -1 if claimed == 0xFFFFFFFF else claimed
        return _Samples(start, start + header_bytes, claimed, (start + 8, ">I"))
    order = "<" if head[:4] in (b"RIFF", b"RF64") else ">"
    place, long_field, long_claim, layout = start + 12, 0, 0, (16_000, 1)
    while place + 8 <= size:
        stream.seek(place)
        name, n_bytes = struct.unpack(f"{order}4sI", stream.read(8))
        body = stream.read(16) if name in (b"ds64", b"fmt ") else b""
        if name == b"ds64" and len(body) == 16:
            long_field, long_claim = place + 16, struct.unpack("<8xQ", body)[0]
        if name == b"fmt " and len(body) == 16:
            layout = struct.unpack(f"{order}8xIH2x", body)
        if name == b"data" and long_field and n_bytes == 0xFFFFFFFF:
            return _Samples(start, place + 8, long_claim, (long_field, "<Q"), 0, *layout)
        if name == b"data":
            return _Samples(start, place + 8, n_bytes, (place + 4, f"{order}I"), 0, *layout)
        if name == b"SSND":
            return _Samples(start, place + 16, n_bytes - 8, (place + 4, ">I"), 8)
        place += 8 + n_bytes + n_bytes % 2
    return None


def _next_file(stream: IO[bytes], samples: _Samples, size: int) -> Optional[int]:
    """Where another file begins: right behind the samples of one and the chunks that follow them.

    It is looked for among the samples where their number leads to no such place.
    """
    can_be = not samples.is_unknown and samples.end <= size
    for start in _places_behind(samples) if can_be else []:
        behind = _behind_chunks(stream, start, size)
        stream.seek(behind)
        head = stream.read(_LONGEST_START)
        if _begins_a_stream(head):
            return behind
        if behind <= size <= behind + 16 or head[:3] in (b"ID3", b"TAG"):
            return None
    found = _next_of(stream, samples.at, size)
    return found if found < size else None


def _places_behind(samples: _Samples) -> list[int]:
    """Chunks begin at even places, but not all programs know."""
    end = max(samples.end, samples.at)
    return [end, end + 1] if samples.claimed % 2 else [end]


def _behind_chunks(stream: IO[bytes], place: int, size: int) -> int:
    """The end of the chunks that begin at a place. It is the place itself where there are none."""
    while place + 8 <= size:
        stream.seek(place)
        head = stream.read(_LONGEST_START)
        if _begins_a_stream(head) or not all(0x20 <= byte < 0x7F for byte in head[:4]):
            return place
        n_bytes = min(struct.unpack("<I", head[4:8])[0], struct.unpack(">I", head[4:8])[0])
        if place + 8 + n_bytes > size:
            return place
        place += 8 + n_bytes + n_bytes % 2
    return min(place, size)


def _parts_with(stream: IO[bytes], samples: _Samples, end: int, *, is_only: bool) -> list[Part]:
    held = end - samples.at
    if samples.claimed > held and samples.is_long:
        missing = None if samples.is_unknown else f"its header claims {samples.claimed} bytes, there are {held}"
        return [_mended(stream, samples, samples.at, end, missing=missing)]
    if samples.claimed > held or _is_explained(stream, samples, end):
        return [Part(stream if is_only else spliced(stream, [(samples.start, end)]))]
    guess = None
    if not samples.is_unknown:
        guess = (
            f"its header claims {samples.claimed} bytes of samples, and {held - samples.claimed} bytes behind them are"
            " in no chunk: they are taken for samples"
        )
    if samples.is_long:
        return [_mended(stream, samples, samples.at, end, guess=guess)]
    together = samples.frame_bytes or 1
    step = max(_LONGEST_RIFF // together, 1) * together
    return [
        _mended(stream, samples, at, min(at + step, end), guess=guess if at == samples.at else None)
        for at in range(samples.at, end, step)
    ]


def _is_explained(stream: IO[bytes], samples: _Samples, end: int) -> bool:
    """Whether what lies behind the samples is no sound: chunks, a tag, or too little to be heard."""
    least = 16 if samples.claimed <= 0 else _LEAST_REST_S * (samples.byte_rate or 2 * 16_000)
    for place in _places_behind(samples):
        stream.seek(place)
        if stream.read(3) == b"ID3" or end - _behind_chunks(stream, place, end) < least:
            return True
    return False


def _mended(
    stream: IO[bytes],
    samples: _Samples,
    start: int,
    end: int,
    *,
    missing: Optional[str] = None,
    guess: Optional[str] = None,
) -> Part:
    """The samples from ``start`` to ``end``, behind the header with their number of bytes in it."""
    place, layout = samples.size_field
    size = struct.pack(layout, end - start + samples.extra)
    header = overlaid(samples.start, samples.at, [(place, size)])
    return Part(spliced(stream, [*header, (start, end)]), missing=missing, guess=guess)
