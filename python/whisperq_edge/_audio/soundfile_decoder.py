"""Streams by libsndfile: WAV, FLAC, Ogg, AIFF and others in this process, MP3 in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import threading
from typing import IO, Any, Optional

import numpy as np

from .._whisper.units import SAMPLE_RATE
from .decoding import Decoding, NotDecodedError, finished, stream_for, warn_damaged
from .mono import BLOCK_FRAMES, MAX_CHANNELS
from .mp3_process import DecoderError, Mp3Process, NoProcessError
from .samples import (
    Pieces,
)
from .spliced import Part

__all__ = ["decode_mp3", "decode_with_soundfile"]


def decode_with_soundfile(part: Part, decoding: Decoding) -> Pieces:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its libsndfile is missing
        raise NotDecodedError(f"soundfile cannot be imported ({error})") from error

    class ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
        """soundfile seeks to where it stands after every block, which is slow, and in an MP3 it is audible."""

        def seekable(self) -> bool:
            return False

    stream, tells_length = part.stream, part.tells_length
    source = _Source(stream, stretch=_MOST_BYTES_PER_BYTE if tells_length is False else 1)
    try:
        with _InterruptLater():
            file = ForwardFile(source)
    except soundfile.LibsndfileError as error:
        source.raise_if_failed()
        raise NotDecodedError(_libsndfile_reason(error.error_string)) from error
    with file:
        pcm = stream_for(file.samplerate, decoding)
        frames = min(pcm.block_frames, max(1, BLOCK_FRAMES * MAX_CHANNELS // file.channels))
        if tells_length is False:
            frames = min(frames, _MP3_BLOCK_FRAMES)
        buffer = np.empty((frames, file.channels), np.float32)
        damage: Optional[str] = None
        try:
            while True:
                with _InterruptLater():
                    block = file.read(out=buffer)
                source.raise_if_failed()
                if not len(block):
                    break
                yield pcm.push(block)
        except soundfile.LibsndfileError as error:
            source.raise_if_failed()
            if not pcm.frames_in:
                raise NotDecodedError(_libsndfile_reason(error.error_string)) from error
            damage = _libsndfile_reason(error.error_string)
        source.raise_if_failed()
        if damage := part.missing or damage or _what_is_missing(str(file.extra_info), stream):
            warn_damaged(decoding, pcm.frames_in / file.samplerate, damage)
        yield finished(pcm, decoding)


def decode_mp3(part: Part, decoding: Decoding) -> Pieces:
    """As ``decode_with_soundfile``, in a process of its own: its decoder prints to stderr where a frame is damaged."""
    stretch = _MOST_BYTES_PER_BYTE if part.tells_length is False else 1
    try:
        file = decoding.mp3_process()
        file.open(part.stream, stretch, _MP3_BLOCK_FRAMES, BLOCK_FRAMES * MAX_CHANNELS)
    except (ImportError, NoProcessError):  # no soundfile, or no processes: what it prints cannot be helped there
        part.stream.seek(0)
        yield from decode_with_soundfile(part, decoding)
        return
    except DecoderError as error:
        raise NotDecodedError(_libsndfile_reason(str(error))) from error
    pcm = stream_for(file.rate_hz, decoding)
    damage: Optional[str] = None
    try:
        while (block := file.read()) is not None:
            for first in range(0, len(block), pcm.block_frames):
                yield pcm.push(block[first : first + pcm.block_frames])
    except DecoderError as error:
        damage = _libsndfile_reason(str(error))
        if not pcm.frames_in:
            raise NotDecodedError(damage) from error
    _warn_damaged_frames(decoding, file)
    if damage := part.missing or damage or _what_is_missing(file.log, part.stream):
        warn_damaged(decoding, pcm.frames_in / file.rate_hz, damage)
    yield finished(pcm, decoding)


def _warn_damaged_frames(decoding: Decoding, file: Mp3Process) -> None:
    """Tell where frames are damaged whose audio was decoded as far as it goes."""
    if file.damaged_frames:
        first_s = decoding.n_before / SAMPLE_RATE + file.damaged_frames[0] / file.rate_hz
        message = "is damaged at %.2f s%s: what MP3 frames held there is not whole (mpg123: %s); what follows is read"
        n_more = len(file.damaged_frames) - 1
        more = f" and at {n_more} later place{'s' if n_more > 1 else ''}" if n_more else ""
        decoding.warn_of_loss(message, first_s, more, file.first_line)


# What libsndfile notes of a header that claims more bytes than there are, and of an Ogg file without its last page.
_SHORT_CHUNK = re.compile(
    r"^\s*(?:data|SSND|BODY|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)

_SHORT_OGG = re.compile(r"^Ogg ?: (?:File ended unexpectedly|Junk after the last page).*", re.MULTILINE)
_UNKNOWN_BYTES = 0x7FFF_0000  # programs that write to a pipe claim this or more, as they cannot know how much will come
_WRONG_BYTES = 64  # some count the header as well: nothing that is missing is so short
_MOST_BYTES_PER_BYTE = 64  # from frames of 8 kbit/s to those of 320, and more
_MP3_BLOCK_FRAMES = 4096  # of one without a length: where it is cut, libsndfile loses the block


def _what_is_missing(log: str, stream: IO[bytes]) -> Optional[str]:
    """The sign, if libsndfile's log has one, that a file which was read to its end was longer once."""
    for claimed, held in _SHORT_CHUNK.findall(log):
        if int(held) + _WRONG_BYTES < int(claimed) < _UNKNOWN_BYTES:
            return f"its header claims {claimed} bytes, there are {held}"
    ogg = _SHORT_OGG.search(log)
    if ogg is not None and not _has_last_page(stream):  # which libsndfile forgets of files with one page of audio
        return f"libsndfile: {ogg.group()}"
    return None


def _has_last_page(stream: IO[bytes]) -> bool:
    """Whether the last page of an Ogg file is whole and says that it is the last. Something else may follow."""
    header, most_bytes = 27, 27 + 255 + 255 * 255
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - 4 * most_bytes))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    if len(page) < header or len(page) < header + page[26]:
        return False
    n_bytes = header + page[26] + sum(page[header : header + page[26]])
    return bool(page[5] & 4) and len(page) >= n_bytes


class _InterruptLater:
    """Ctrl-C while libsndfile runs. Python would raise ``KeyboardInterrupt`` where libsndfile calls a file object
    through C, and it would be lost, as if the file ended there. It is raised behind the block instead."""

    def __enter__(self) -> None:
        self._is_asked = False
        # Signals come to the main thread; whoever has a handler of their own keeps it.
        in_main = threading.current_thread() is threading.main_thread()
        self._defers = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._defers:
            signal.signal(signal.SIGINT, self._ask)

    def __exit__(self, *_: object) -> None:
        if self._defers:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_asked:
            raise KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        self._is_asked = True


class _Source:
    """The part of a file object that libsndfile uses.

    libsndfile calls it through C, which would print an error of the operating system and go on as if the file had
    ended: it is kept here and raised afterwards. Also hides the file's name: soundfile would go by its extension.

    Args:
        stretch: the file is said to be this many times as long. Of an MP3 that does not tell its length libsndfile
            estimates it, by that of the file and of the first frame, and reads no further: where the first frames are
            large, half of the audio would be lost.
    """

    def __init__(self, stream: IO[bytes], stretch: int = 1) -> None:
        self._stream: Any = stream
        self._error: Optional[OSError] = None
        self._stretch = stretch
        self._asks_length = False

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._stream.readinto(buffer)
            return count
        except OSError as error:
            self._error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._asks_length = offset == 0 and whence == os.SEEK_END
        try:
            position: int = self._stream.seek(offset, whence)
            return position
        except (OSError, ValueError):  # a damaged header sends it to before the start; it stays where it is
            return self.tell()

    def tell(self) -> int:
        position: int = self._stream.tell()
        return position * self._stretch if self._asks_length else position

    def raise_if_failed(self) -> None:
        if self._error is not None:
            raise self._error


def _libsndfile_reason(words: str) -> str:
    reason = str(words).rstrip(".")
    # What its MP3 reader says of bytes without a single MP3 frame. The file was opened: it does exist.
    return "libsndfile: Format not recognised" if "does not exist" in reason else f"libsndfile: {reason}"
