"""A file of streams by the decoders that can read them: soundfile first, PyAV for the rest."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import IO, Callable, Optional

from .._errors import AudioFormatError, EmptyAudioError
from .._system.arrays import Floats
from .._whisper.units import SAMPLE_RATE
from .av_decoder import decode_with_av
from .containers import parts_of
from .decoding import Decoding, NotDecodedError
from .mono import check_length
from .samples import (
    Pieces,
)
from .soundfile_decoder import decode_mp3, decode_with_soundfile
from .spliced import Part

__all__ = ["checked_parts", "from_parts"]


def checked_parts(stream: IO[bytes], name: str) -> list[Part]:
    stream.seek(0)
    if not stream.read(1):
        raise EmptyAudioError(f"{name} is empty: 0 bytes")
    return parts_of(stream)


def from_parts(parts: list[Part], decoding: Decoding) -> Pieces:
    """PCM of all the streams that a file is joined of."""
    _warn_left_out(decoding, parts)
    for index, part in enumerate(parts):
        decoding.n_before, decoding.is_last = decoding.n_done, index + 1 == len(parts)
        try:
            for piece in _from_part(part, decoding):
                decoding.n_done += piece.size
                check_length(decoding.n_done, SAMPLE_RATE)
                yield piece
        except (AudioFormatError, EmptyAudioError) as error:
            if index == 0:
                raise
            decoding.warn_of_loss(
                "was not read from %.2f s on, where stream %d of the %d that it is joined of begins: %s",
                decoding.n_done / SAMPLE_RATE,
                index + 1,
                len(parts),
                error,
            )


def _warn_left_out(decoding: Decoding, parts: list[Part]) -> None:
    left_out = sum(part.left_out for part in parts)
    if left_out:
        decoding.warn_of_loss("is damaged: %d bytes in it are no MP3 frames and were left out", left_out)


def _from_part(part: Part, decoding: Decoding) -> Pieces:
    """PCM by the first decoder that can read the stream."""
    part.stream.seek(0)
    head = part.stream.read(64)
    reasons = []
    for decode in _decoders(decoding.track, head, part):
        part.stream.seek(0)
        pieces = decode(part, decoding)
        try:
            first = next(pieces, None)
        except NotDecodedError as error:
            reasons.append(str(error))
        else:
            if part.guess is not None:
                decoding.warn("has a wrong header: %s", part.guess)
            return _resumed(first, pieces)
    raise AudioFormatError(_not_decoded(decoding.name, head, reasons))


def _decoders(track: Optional[int], head: bytes, part: Part) -> tuple[Callable[[Part, Decoding], Pieces], ...]:
    """libsndfile knows one audio track. Of the formats that it reads, only Ogg may have more."""
    if track and head[:4] == b"OggS":
        return (decode_with_av,)
    if part.tells_length is not None or _MP3_IN_WAV.search(_first_bytes(part.stream)):
        return decode_mp3, decode_with_av
    return decode_with_soundfile, decode_with_av


_MP3_IN_WAV = re.compile(rb"^(?:RIFF|RF64).*fmt .{4}\x55\0", re.DOTALL)


def _first_bytes(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read(4096)


def _resumed(first: Optional[Floats], rest: Pieces) -> Pieces:
    try:
        if first is not None:
            yield first
            yield from rest
    finally:
        rest.close()


def _not_decoded(name: str, head: bytes, reasons: list[str]) -> str:
    look = _looks_like(head)
    first = " ".join(f"{byte:02x}" for byte in head[:12])
    message = f"{name} cannot be decoded as audio ({'; '.join(reasons)}). It begins with {first}"
    if look is not None:
        message += f", which looks like {look}"
    if importlib.util.find_spec("av") is None:
        message += ". M4A, MP4, WebM, AAC, WMA and the sound of videos need PyAV: pip install 'whisperq-edge[av]'"
    return message


# offset, magic, what it is
_MAGICS = (
    (4, b"ftyp", "MP4 (m4a, mp4, mov)"),
    (0, b"\x1aE\xdf\xa3", "Matroska (webm, mkv)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma, asf)"),
    (0, b"\xff\xf1", "AAC (ADTS)"),
    (0, b"\xff\xf9", "AAC (ADTS)"),
    (0, b"#!AMR", "AMR"),
    (8, b"AVI ", "AVI"),
    (8, b"WAVE", "WAV"),
    (8, b"AIF", "AIFF"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3"),
    (0, b"\xff\xfb", "MP3"),
    (0, b"\xff\xf3", "MP3"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"%PDF", "a PDF"),
    (0, b"version https://git-lfs", "a Git LFS pointer: download the real file with git lfs pull"),
)


def _looks_like(head: bytes) -> Optional[str]:
    for offset, magic, what in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return what
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        return "a web page or an error message of a server"
    return None
