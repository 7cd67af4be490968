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

from .matroska import MATROSKA_CLUSTER, MATROSKA_START, last_of_matroska
from .mp3 import begins_mp3, is_mp3, mp3_parts, next_mp3
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
    rb"RI(?:FF|FX)....WAVE[ -~]{4}|RF64....WAVEds64|FORM....(?:AIF[FC]|8SVX|16SV)[ -~]{4}"
    rb"|riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0.{8}wave\xf3\xac\xd3\x11"
    rb"|\.snd\0\0..[\0-\xff]{4}\0\0\0[\1-\x1b]\0[\0-\x0b]..\0\0\0[\1-\x20]",
    re.DOTALL,
)
_SVX = (b"8SVX", b"16SV")
_W64_START = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"
_W64_NAME = b"\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a"  # behind four letters
_W64_TAILS = (_W64_NAME[-6:], _W64_START[-6:])  # of all names of chunks
_W64_CHUNK = 24  # bytes of a name and of a length, which counts them
_CAF_START = re.compile(rb"caff\x00\x01\x00\x00desc")
_MP4_START = re.compile(rb"\0\0\0[\x0c-\xff]ftyp[ -~]{4}")
_LONGEST_START = 32

# A name to look for, where it lies, and the whole. Looking for names is ten times as fast as for one pattern of all.
_STARTS = (
    *((name, 0, _SAMPLES_START) for name in (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd\0\0", b"riff\x2e\x91")),
    (b"OggS\0", 0, _OGG_FIRST_PAGE),
    (b"fLaC", 0, _FLAC_FILE),
    (b"caff", 0, _CAF_START),
    (b"ftyp", 4, _MP4_START),
    (b"\x1aE\xdf\xa3", 0, MATROSKA_START),
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
        own_end = _behind_pages(stream, start, end)
        end = next_mp3(stream, own_end, end)
        # libsndfile takes zeros and tags behind the last page for damage.
        own_end = end if _holds(stream, b"OggS", own_end, end) else min(own_end, end)
        piece = _piece(stream, start, own_end, size)
        return _cut_at(piece, own_end - start, _ogg_starts(piece)), end
    if head[:4] == b"fLaC":
        end = _next_of(stream, start, size, but=_FLAC_FILE)
        end = next_mp3(stream, _behind_flac_header(stream, start, end), end)
        piece = _piece(stream, start, end, size)
        return _cut_at(piece, end - start, [place for place, _ in _found(piece, _FLAC_START)]), end
    if head[:4] == b"caff" or _MP4_START.match(head):
        end, missing = _behind_caf(stream, start, size) if head[:4] == b"caff" else _behind_boxes(stream, start, size)
        return [Part(_piece(stream, start, end, size), missing=missing)], end
    if MATROSKA_START.match(head):
        return _matroska_part(stream, start, size)
    piece = _piece(stream, start, size, size)
    if is_mp3(piece):
        parts, n_bytes = mp3_parts(piece, _begins_a_stream)
        # One whose frames do not tell their length is libsndfile's alone.
        return (parts, start + n_bytes) if parts else ([Part(piece, tells_length=False)], size)
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
    """Whether a file of a kind that is known by its first bytes begins here. MP3 has no such bytes."""
    return _begins_with_samples(head) or any(pattern.match(head) for _, _, pattern in _STARTS)


def _end_of(stream: IO[bytes], start: int, end: int, size: int) -> tuple[int, Optional[str]]:
    """Find where a piece ends that begins at ``start`` and that a header has end at ``end``.

    Another stream begins there or behind it. One that begins before shows that the piece was cut, as the end of the
    file does.

    Returns:
        where that stream begins, else the end of the file; and a sentence about what is missing.
    """
    if end == size or (end < size and (_begins_a_stream(_head(stream, end)) or begins_mp3(stream, end))):
        return end, None
    found = _next_of(stream, start, size)
    if found < end:
        return found, f"its header claims {end - start} bytes, there are {found - start}"
    return next_mp3(stream, end, found), None


def _holds(stream: IO[bytes], name: bytes, start: int, end: int) -> bool:
    """Whether a name of a few bytes lies between two places."""
    return start < end and any(True for _ in _found(_piece(stream, start, end, -1), re.compile(re.escape(name))))


def _head(stream: IO[bytes], place: int) -> bytes:
    stream.seek(place)
    return stream.read(_LONGEST_START)


def _is_name(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in name)


def _matroska_part(stream: IO[bytes], start: int, size: int) -> tuple[list[Part], int]:
    last, own_end = last_of_matroska(stream, start, size)
    end, missing = _end_of(stream, last, own_end, size)
    # FFmpeg goes on behind damage, where another cluster begins. From other bytes it guesses a longer duration.
    own_end = end if _holds(stream, MATROSKA_CLUSTER, own_end, end) else min(own_end, end)
    return [Part(_piece(stream, start, own_end, size), missing=missing)], end


def _behind_caf(stream: IO[bytes], start: int, size: int) -> tuple[int, Optional[str]]:
    """Where another stream begins behind the chunks of a CAF file, else the end of the file; and what is missing."""
    last, place = start, start + 8
    while place + 12 <= size:
        head = _head(stream, place)
        if _begins_a_stream(head) or not _is_name(head[:4]):
            break
        n_bytes = struct.unpack(">q", head[4:12])[0]
        if n_bytes < 0:  # a recorder that was killed
            return _next_of(stream, place, size), None
        if place + 12 + n_bytes > size and head[:4] != b"data":  # a tag, which is no chunk
            break
        last, place = place, place + 12 + n_bytes
    return _end_of(stream, last, place, size)


def _behind_boxes(stream: IO[bytes], start: int, size: int) -> tuple[int, Optional[str]]:
    """Where another stream begins behind the boxes of an MP4 file, else the end of the file; and what is missing."""
    last, place = start, start
    while place + 8 <= size:
        head = _head(stream, place)
        # No box is as long as the first bytes of MP3 would have it.
        if place > start and (_begins_a_stream(head) or not _is_name(head[4:8]) or head[0] == 0xFF):
            break
        n_bytes = struct.unpack(">I", head[:4])[0]
        if n_bytes == 1 and len(head) >= 16:
            n_bytes = struct.unpack(">Q", head[8:16])[0]
        if n_bytes < 8:  # 0: it goes on to the end of the file
            return _next_of(stream, place, size), None
        if place + n_bytes > size and head[4:8] != b"mdat":  # a tag, which is no box
            break
        last, place = place, place + n_bytes
    return _end_of(stream, last, place, size)


def _behind_flac_header(stream: IO[bytes], start: int, size: int) -> int:
    """Where the first frame of a FLAC file begins. Its header may hold pictures, and anything else."""
    place, is_last = start + 4, False
    while not is_last and place + 4 <= size:
        stream.seek(place)
        block = stream.read(4)
        is_last = block[0] >= 0x80
        place += 4 + int.from_bytes(block[1:], "big")
    return min(place, size)


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


def _behind_pages(stream: IO[bytes], start: int, size: int) -> int:
    """Where the pages that lie one after the other end."""
    place = start
    while place < size:
        stream.seek(place)
        page = stream.read(27 + 255)
        if page[:4] != b"OggS" or len(page) < 27:
            return place
        place += 27 + page[26] + sum(page[27 : 27 + page[26]])
    return size


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


# ---- WAV, AIFF, SVX, AU and W64 --------------------------------------------------------------------------------------


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
        reads_on: libsndfile takes all bytes up to the end of the file for samples.
    """

    start: int
    at: int
    claimed: int
    size_field: tuple[int, str]
    extra: int = 0
    byte_rate: int = 16_000
    frame_bytes: int = 1
    reads_on: bool = False

    @property
    def end(self) -> int:
        return self.at + self.claimed

    @property
    def is_w64(self) -> bool:
        """Whether its chunks have names of 16 bytes and begin at every eighth place."""
        return self.extra == _W64_CHUNK

    @property
    def is_long(self) -> bool:
        return self.size_field[1] == "<Q"

    @property
    def is_unknown(self) -> bool:
        """Whether the number is one that programs write before they know it."""
        if self.is_long and self.claimed + self.extra != 0xFFFFFFFF:
            return self.claimed <= 0 or self.claimed >= 2**62
        return self.claimed <= 0 or self.claimed >= _UNKNOWN_BYTES


def _begins_with_samples(head: bytes) -> bool:
    is_wav = head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE"
    is_form = head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", *_SVX)
    return is_wav or is_form or head[:4] == b".snd" or head[:16] == _W64_START


def _sample_parts(stream: IO[bytes], start: int, size: int) -> tuple[list[Part], int]:
    parts: list[Part] = []
    place: Optional[int] = start
    while place is not None:
        stream.seek(place)
        if not _begins_with_samples(stream.read(_LONGEST_START)):
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
    if head[:16] == _W64_START:
        return _read_w64_header(stream, start, size)
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
        if name == b"BODY" and head[8:12] in _SVX:
            return _Samples(start, place + 8, n_bytes, (place + 4, ">I"), reads_on=True)
        place += 8 + n_bytes + n_bytes % 2
    return None


def _read_w64_header(stream: IO[bytes], start: int, size: int) -> Optional[_Samples]:
    """None: it has no samples."""
    place, layout = start + 40, (16_000, 1)
    while place + _W64_CHUNK <= size:
        stream.seek(place)
        head = stream.read(_W64_CHUNK + 16)
        name, n_bytes = struct.unpack("<16sQ", head[:_W64_CHUNK])
        if name == b"fmt " + _W64_NAME and len(head) == _W64_CHUNK + 16:
            layout = struct.unpack("<8xIH2x", head[_W64_CHUNK:])
        if name == b"data" + _W64_NAME:
            claimed = n_bytes - _W64_CHUNK
            return _Samples(start, place + _W64_CHUNK, claimed, (place + 16, "<Q"), _W64_CHUNK, *layout, reads_on=True)
        if n_bytes < _W64_CHUNK:
            return None
        place += n_bytes + -n_bytes % 8
    return None


def _next_file(stream: IO[bytes], samples: _Samples, size: int) -> Optional[int]:
    """Where another file begins: right behind the samples of one and the chunks that follow them.

    It is looked for among the samples where their number leads to no such place.
    """
    can_be = not samples.is_unknown and samples.end <= size
    for start in _places_behind(samples) if can_be else []:
        behind = _behind_chunks(stream, start, size, samples.is_w64)
        head = _head(stream, behind)
        if _begins_a_stream(head) or begins_mp3(stream, behind):
            return behind
        if behind <= size <= behind + 16 or head[:3] in (b"ID3", b"TAG"):
            return None
    found = _next_of(stream, samples.at, size)
    return found if found < size else None


def _places_behind(samples: _Samples) -> list[int]:
    """Chunks begin at even places (in W64, at every eighth), but not all programs know."""
    end = max(samples.end, samples.at)
    n_fill = -samples.claimed % (8 if samples.is_w64 else 2)
    return [end, end + n_fill] if n_fill else [end]


def _behind_chunks(stream: IO[bytes], place: int, size: int, is_w64: bool) -> int:
    """The end of the chunks that begin at a place. It is the place itself where there are none."""
    while place + 8 <= size:
        head = _head(stream, place)
        n_bytes = 0 if _begins_a_stream(head) else _chunk_bytes(head, is_w64)
        if not n_bytes or place + n_bytes > size:
            return place
        place += n_bytes + -n_bytes % (8 if is_w64 else 2)
    return min(place, size)


def _chunk_bytes(head: bytes, is_w64: bool) -> int:
    """Return the length of the chunk that begins with these bytes, its name and number included; 0: it is none."""
    if is_w64:
        n_bytes: int = struct.unpack("<Q", head[16:24])[0] if head[10:16] in _W64_TAILS and len(head) >= 24 else 0
        return n_bytes if n_bytes >= _W64_CHUNK else 0
    if not _is_name(head[:4]):
        return 0
    return 8 + min(int.from_bytes(head[4:8], "little"), int.from_bytes(head[4:8], "big"))


def _parts_with(stream: IO[bytes], samples: _Samples, end: int, *, is_only: bool) -> list[Part]:
    held = end - samples.at
    if samples.claimed > held and samples.is_long:
        missing = None if samples.is_unknown else f"its header claims {samples.claimed} bytes, there are {held}"
        return [_mended(stream, samples, samples.at, end, missing=missing)]
    if samples.claimed > held or _is_explained(stream, samples, end):
        if samples.reads_on and samples.end < end:
            end, is_only = max(samples.end, samples.at), False
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
    """Whether what lies behind the samples is no sound: chunks, a tag, zeros, or too little to be heard."""
    if samples.claimed > 0 and _is_zero(stream, samples.end, end):
        return True
    least = 16 if samples.claimed <= 0 else _LEAST_REST_S * (samples.byte_rate or 2 * 16_000)
    for place in _places_behind(samples):
        stream.seek(place)
        if stream.read(3) == b"ID3" or end - _behind_chunks(stream, place, end, samples.is_w64) < least:
            return True
    return False


def _is_zero(stream: IO[bytes], start: int, end: int) -> bool:
    stream.seek(start)
    while (n_left := end - stream.tell()) > 0:
        content = stream.read(min(n_left, _READ_BYTES))
        if content.strip(b"\0") or not content:
            return False
    return True


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
