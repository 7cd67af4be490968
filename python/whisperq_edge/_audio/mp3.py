"""The frames of an MP3 file, before libsndfile sees them.

libsndfile stops where a second file was joined to the first, and after a kilobyte of bytes that are no frames. Its
decoder, mpg123, prints notes of such places to the process's stderr. Here the file is cut into runs of whole frames of
one format, and a header that has the wrong number of frames or bytes is put right. In a run mpg123 finds nothing to
note, except frames whose content is damaged.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, replace
from typing import IO, Callable, NamedTuple, Optional

from .spliced import Part, overlaid, spliced

__all__ = ["begins_mp3", "is_mp3", "mp3_parts", "next_mp3"]

_READ_BYTES = 2**20
_LARGEST_TAG = 2**28  # an ID3 tag's length has 28 bits
_MISSING_S = 0.25  # headers may differ by a few frames, of up to 72 ms

# kbit/s by (MPEG-1 or not, layer), from index 1 to 14. Index 0 is a free format.
_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HEAD_BYTES = 40  # header, side information, and the name of a header
_TAGS = (b"Xing", b"Info")
_LARGEST_FRAME = 4096
_MOST_TRIES = 200_000  # places that look like a frame and are none, before the rest of a file is given up

# A header's three bytes with a possible layer, bit rate and sample rate, a tag, or the name of another kind of file.
_THIRD_BYTES = b"".join(re.escape(bytes([byte])) for byte in range(0x10, 0xF0) if byte >> 2 & 3 != 3)
_FRAME_BYTES = rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][" + _THIRD_BYTES + rb"]"
_FRAME = re.compile(_FRAME_BYTES, re.DOTALL)
_SYNC = re.compile(
    _FRAME_BYTES + rb"|ID3|TAG|APETAGEX"
    rb"|RIF[FX]|RF64|riff|FORM|\.snd|OggS|fLaC|caff|\x1aE\xdf\xa3|\0\0\0.ftyp",
    re.DOTALL,
)
_CONTAINER = re.compile(rb"RIFF|FORM|\x1aE\xdf\xa3|\x00\x00\x01|caff|....ftyp", re.DOTALL)  # may hold MP3
_RATES_HZ = (44_100, 48_000, 32_000)


class _Frame(NamedTuple):
    """A frame, as its header has it.

    Attributes:
        n_bytes: of the whole frame.
        n_samples: of one channel.
        rate_hz: samples a second.
        tag_at: where a header by the name of Xing or Info lies in it.
        kind: equal for frames that one decoder takes: version, layer, rate, and whether it has one channel.
    """

    n_bytes: int
    n_samples: int
    rate_hz: int
    tag_at: int
    kind: tuple[int, int, int, bool]

    def tag_of(self, head: bytes) -> bytes:
        """The place of such a name in a frame's first bytes."""
        return head[self.tag_at : self.tag_at + 4]


@functools.lru_cache(maxsize=4096)
def _frame(header: bytes) -> Optional[_Frame]:
    """Read a frame's header of 4 bytes. None: it is none, or its length is not in it (free format)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    kbits_index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or kbits_index in (0, 15) or rate_index == 3:
        return None
    is_1, is_mono = version == 3, header[3] >> 6 == 3
    kbits = _KBITS[is_1, layer][kbits_index - 1]
    rate_hz = _RATES_HZ[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    n_samples = 384 if layer == 1 else 576 if layer == 3 and not is_1 else 1152
    slot = 4 if layer == 1 else 1
    n_bytes = (n_samples // 8 * kbits * 1000 // (rate_hz * slot) + padding) * slot
    side_bytes = (17 if is_mono else 32) if is_1 else (9 if is_mono else 17)
    return _Frame(n_bytes, n_samples, rate_hz, 4 + side_bytes, (version, layer, rate_hz, is_mono))


@dataclass
class _Run:
    """Whole frames of one kind, one after the other.

    Attributes:
        start: first byte.
        end: behind the last byte.
        n_frames: how many, a header's own included.
        first: the first of them.
        head: its first bytes.
        left_out: bytes before it that are neither frames nor tags.
    """

    start: int
    end: int
    n_frames: int
    first: _Frame
    head: bytes
    left_out: int

    @property
    def has_tag(self) -> bool:
        """Whether the first frame is a header by the name of Xing or Info."""
        return self.first.tag_of(self.head) in _TAGS

    def takes(self, frame: _Frame, head: bytes) -> bool:
        """Whether a frame goes on with this run. A header begins another file."""
        return frame.kind == self.first.kind and frame.tag_of(head) not in _TAGS and head[36:40] != b"VBRI"

    @property
    def silence(self) -> bytes:
        """A frame of this kind whose content is zero. It has no checksum."""
        return bytes([self.head[0], self.head[1] | 1, *self.head[2:4]]) + bytes(self.first.n_bytes - 4)


class _Bytes:
    """A file's bytes by their place."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._start, self._block = 0, b""
        self.size = stream.seek(0, os.SEEK_END)

    def at(self, place: int, count: int) -> bytes:
        """``count`` bytes, or fewer at the end of the file."""
        first = place - self._start
        if first < 0 or first + count > len(self._block):
            self._stream.seek(place)
            self._start, self._block = place, self._stream.read(max(_READ_BYTES, count))
            first = 0
        return self._block[first : first + count]


def is_mp3(stream: IO[bytes]) -> bool:
    """Whether a file begins with a frame, behind tags and zeros, or with the rest of a frame before others."""
    content = _Bytes(stream)
    place = _behind_zeros(content, _behind_tags(content, 0))
    head = content.at(place, 4)
    if len(head) == 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0:
        return True  # also one whose frames do not tell their length
    if _CONTAINER.match(content.at(0, 12)):
        return False
    end = min(_LARGEST_FRAME, content.size)
    place = _next_sync(content, place)
    while place < end and not _begins_with_frames(content, place):
        place = _next_sync(content, place)
    return place < end


def _begins_with_frames(content: _Bytes, place: int, least: int = 4) -> bool:
    """Whether several frames lie one after the other, which is no chance."""
    kinds = set()
    for _ in range(least):
        frame = _frame(content.at(place, 4))
        if frame is None:
            return False
        kinds.add(frame.kind[:3])
        place += frame.n_bytes
    return len(kinds) == 1


def begins_mp3(stream: IO[bytes], place: int) -> bool:
    """Whether several frames follow each other at a place, behind tags: nothing else looks like that by chance."""
    content = _Bytes(stream)
    return _begins_with_frames(content, _behind_tags(content, place))


def next_mp3(stream: IO[bytes], start: int, size: int) -> int:
    """Return where MP3 begins from ``start`` on, with its tags; else the end of the file."""
    content = _Bytes(stream)
    for first in range(start, size, _READ_BYTES):
        block = content.at(first, _READ_BYTES + 2)
        tags = [found.start() for found in re.finditer(b"ID3", block)]
        frames = [found.start() for found in _FRAME.finditer(block)]
        for place in sorted(tags + frames):
            if _begins_with_frames(content, _behind_tags(content, first + place)):
                return min(first + place, size)
    return size


def mp3_parts(stream: IO[bytes], begins_other: Callable[[bytes], bool]) -> tuple[list[Part], int]:
    """Return the runs of frames in an MP3 file, and where a file of another kind begins behind them. There is no run
    where no frame tells its length.

    Args:
        begins_other: whether such a file begins with these 32 bytes.
    """
    content = _Bytes(stream)
    runs, left_out, end = _runs(content, begins_other)
    parts = [_part(stream, content, run) for run in runs]
    if runs and _ends_within_a_frame(content, runs[-1]):
        parts[-1] = replace(parts[-1], missing=parts[-1].missing or "the last frame is not whole")
    elif runs and left_out >= _LARGEST_FRAME:
        parts[-1] = replace(parts[-1], left_out=parts[-1].left_out + left_out)
    return parts, end


def _runs(content: _Bytes, begins_other: Callable[[bytes], bool]) -> tuple[list[_Run], int, int]:
    """The runs in a file, the number of bytes behind the last that belong to none, and where that file ends."""
    runs: list[_Run] = []
    run: Optional[_Run] = None
    place, left_out, n_tries = 0, 0, 0
    while place < content.size:
        head = content.at(place, _HEAD_BYTES)
        frame = _frame(head[:4])
        if frame is not None and place + frame.n_bytes <= content.size:
            if run is not None and run.takes(frame, head):
                run.n_frames += 1
                run.end = place = place + frame.n_bytes
                continue
            if _is_followed(content, place, frame):
                run = _Run(place, place + frame.n_bytes, 1, frame, head, left_out)
                runs.append(run)
                place, left_out = run.end, 0
                continue
        run = None
        if runs and begins_other(content.at(place, 32)):
            break
        behind = _behind_tags(content, place)
        if behind == place:
            n_tries += 1
            behind = _next_sync(content, place) if n_tries < _MOST_TRIES else content.size
            left_out += 0 if _is_fill(content, place, behind) else behind - place
        place = behind
    return runs, left_out, min(place, content.size)


def _is_followed(content: _Bytes, place: int, frame: _Frame) -> bool:
    """Two headers of a kind are no chance. Behind the last frame comes the end, or a tag."""
    behind = place + frame.n_bytes
    if behind >= content.size or _behind_tags(content, behind) > behind:
        return True
    following = _frame(content.at(behind, 4))
    return following is not None and following.kind[:3] == frame.kind[:3]


def _next_sync(content: _Bytes, place: int) -> int:
    """The next place behind ``place`` where a frame or a tag may begin."""
    place += 1
    while place < content.size:
        block = content.at(place, 4096)
        found = _SYNC.search(block)
        if found is not None:
            return place + found.start()
        place += max(len(block) - 7, 1)
    return content.size


def _behind_tags(content: _Bytes, place: int) -> int:
    """Where tags end. There is more than one where programs put theirs before others'."""
    while (n_bytes := _tag_bytes(content.at(place, 32))) > 0:
        place = min(place + n_bytes, content.size)
    return place


def _tag_bytes(head: bytes) -> int:
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        n_bytes = 0
        for byte in head[6:10]:  # seven bits each
            n_bytes = n_bytes << 7 | byte
        return 10 + n_bytes + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        n_bytes = int.from_bytes(head[12:16], "little")  # the footer is counted, a header is not
        is_header = head[23] & 0x20 != 0
        return min(n_bytes + 32, _LARGEST_TAG) if is_header else 32
    return 0


def _behind_zeros(content: _Bytes, place: int) -> int:
    while place < content.size and not (block := content.at(place, 4096)).strip(b"\0"):
        place += len(block)
    block = content.at(place, 4096)
    return place + len(block) - len(block.lstrip(b"\0"))


def _is_fill(content: _Bytes, start: int, end: int) -> bool:
    """Whether all bytes are zero, as where a file is padded."""
    places = range(start, end, _READ_BYTES)
    return not any(content.at(place, min(_READ_BYTES, end - place)).strip(b"\0") for place in places)


def _ends_within_a_frame(content: _Bytes, last: _Run) -> bool:
    """Whether a frame begins behind the last whole one and the file ends in it."""
    frame = _frame(content.at(last.end, 4))
    return frame is not None and frame.kind == last.first.kind and last.end + frame.n_bytes > content.size


# ---- The header of a run ---------------------------------------------------------------------------------------------


def _part(stream: IO[bytes], content: _Bytes, run: _Run) -> Part:
    if not run.has_tag:
        return Part(_stream_of(stream, run, []), tells_length=False, left_out=run.left_out)
    place = run.start + run.first.tag_at
    frame = content.at(run.start, run.first.n_bytes)
    tag = frame[run.first.tag_at :]
    flags = int.from_bytes(tag[4:8], "big")
    patches, at = [], 8
    claimed, held = 0, run.n_frames - 1  # the header's own frame is not counted
    if flags & 1:
        claimed = int.from_bytes(tag[at : at + 4], "big")
        if claimed != held:
            patches.append((place + at, held.to_bytes(4, "big")))
        at += 4
    if flags & 2:
        if int.from_bytes(tag[at : at + 4], "big") != run.end - run.start:
            patches.append((place + at, (min(run.end - run.start, 2**32 - 1)).to_bytes(4, "big")))
        at += 4
    at += (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    if claimed not in (0, held) and at + 24 <= len(tag):
        # LAME's samples of padding at the end, which are those of another end.
        patches.append((place + at + 22, bytes([tag[at + 22] & 0xF0, 0])))
    missing = None
    lost_s = (claimed - held) * run.first.n_samples / run.first.rate_hz
    if lost_s > _MISSING_S:
        missing = f"its header claims {claimed * run.first.n_samples / run.first.rate_hz:.2f} s"
    return Part(_stream_of(stream, run, patches), bool(flags & 1), missing, run.left_out)


def _stream_of(stream: IO[bytes], run: _Run, patches: list[tuple[int, bytes]]) -> IO[bytes]:
    """Return the bytes of a run. A silent frame follows one that is alone: mpg123 takes no single frame for MP3."""
    pieces = overlaid(run.start, run.end, patches)
    return spliced(stream, [*pieces, run.silence] if run.n_frames == 1 else pieces)
