"""Whisper's two vocabularies, for models that come without one.

A vocabulary here is the bytes of each text token by its id. The special tokens that follow (languages, tasks, times)
have no text, and their ids follow from ``n_vocab``.
"""

from __future__ import annotations

import functools
import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Optional

from .._errors import InternalError, UnsupportedModelError
from .._system.native import data_file
from .._whisper.dims import VOCAB_SIZES, is_multilingual, n_text_tokens

__all__ = [
    "END_OF_TEXT",
    "LEAST_TOKENS",
    "LONGEST_TOKEN_BYTES",
    "check_vocabulary",
    "describe_difference",
    "known_vocabulary",
    "token_bytes",
    "token_spelling",
    "vocabulary_name",
]

END_OF_TEXT = "<|endoftext|>"
"""The first special token of both vocabularies: what stands before it is text."""

LEAST_TOKENS = n_text_tokens(False)
LONGEST_TOKEN_BYTES = 256
"""What the ggml reader asks of a vocabulary (csrc/model/file_format.cpp)."""

# Number of text tokens and SHA-256 over all of them, each as its length (uint32) and its bytes.
_KNOWN = {
    "english": (n_text_tokens(False), "7cff19521369c7f5f5ed77ed7b730e7491800afb47d01d341e12b3ca740d8543"),
    "multilingual": (n_text_tokens(True), "7a1796f07fce01ae84cc2f83b9a72da17dc652ddc339cb113edcc4c60094f418"),
}
_NAMES = {size: "multilingual" if is_multilingual(size) else "english" for size in VOCAB_SIZES}


# ---- Vocabularies ----------------------------------------------------------------------------------------------------


def vocabulary_name(n_vocab: int) -> str:
    """``english`` or ``multilingual``: which vocabulary a model of this size was trained with.

    Raises:
        UnsupportedModelError: no Whisper has this size.
    """
    if n_vocab not in _NAMES:
        raise UnsupportedModelError(f"n_vocab is {n_vocab}; a Whisper model has {', '.join(map(str, _NAMES))}")
    return _NAMES[n_vocab]


def known_vocabulary(n_vocab: int) -> list[bytes]:
    """Bytes of Whisper's own text tokens by id: 50257 of them.

    The English vocabulary has 50256 and is followed here by ``<|endoftext|>``, as in the files of whisper.cpp.

    Raises:
        UnsupportedModelError: no Whisper has this size.
    """
    return list(_known_vocabulary(vocabulary_name(n_vocab)))


def check_vocabulary(tokens: Sequence[bytes], n_vocab: int) -> Optional[str]:
    """``english`` or ``multilingual`` when the text tokens are those that Whisper has for ``n_vocab``, else None.

    Special tokens that follow the text are not looked at: converters differ in whether they write them.
    """
    name = _NAMES.get(n_vocab, "")
    n_text, digest = _KNOWN.get(name, (0, ""))
    if not name or not n_text <= len(tokens) <= n_vocab:
        return None
    return name if _digest(tokens[:n_text]) == digest else None


def describe_difference(tokens: Sequence[bytes], n_vocab: int) -> str:
    """In words, how a vocabulary that :func:`check_vocabulary` does not know differs from Whisper's own."""
    name = vocabulary_name(n_vocab)
    n_text = _KNOWN[name][0]
    if len(tokens) < n_text:
        return f"it has {len(tokens)} tokens where Whisper's {name} one has {n_text}"
    pairs = [(own, their) for own, their in zip(_known_vocabulary(name)[:n_text], tokens) if own != their]
    if all(own.decode("utf-8", "replace").encode() == their for own, their in pairs):
        return (
            f"{len(pairs)} of its tokens lost bytes that are no whole character (an old converter of whisper.cpp did"
            " that), so that letters outside of ASCII may come out as \N{REPLACEMENT CHARACTER}"
        )
    return f"{len(pairs)} of its {n_text} text tokens differ from Whisper's {name} ones"


def token_bytes(token: str) -> Optional[bytes]:
    """The bytes of a token as GPT-2's files spell it (``Ġhello``: one printable character a byte), or None when it has
    a character that stands for no byte."""
    try:
        return bytes(map(_byte_of_character().__getitem__, token))
    except KeyError:
        return None


def token_spelling(token: bytes) -> str:
    """The inverse of :func:`token_bytes`."""
    return "".join(_character_of_byte()[byte] for byte in token)


@functools.cache
def _character_of_byte() -> dict[int, str]:
    return {byte: character for character, byte in _byte_of_character().items()}


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes of Latin-1 are themselves, the others follow from U+0100 on in their order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


def _digest(tokens: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(struct.pack("<I", len(token)) + token for token in tokens)).hexdigest()


@functools.cache
def _known_vocabulary(name: str) -> tuple[bytes, ...]:
    tokens = _bundled_vocabularies().get(name, [])
    if _digest(tokens) != _KNOWN[name][1]:
        raise InternalError(f"the {name} vocabulary in the installed package is damaged: install whisperq-edge again")
    return tuple(tokens) if name == "multilingual" else (*tokens, END_OF_TEXT.encode())


def _bundled_vocabularies() -> dict[str, list[bytes]]:
    """Return the text tokens of both vocabularies. Damage shows in their digests.

    The asset has the vocabularies in the order of ``_KNOWN``: the length of every token in a byte, then the bytes of
    all tokens. ``scripts/make_vocabularies.py`` writes it.
    """
    try:
        data = io.BytesIO(zlib.decompress(data_file("assets/vocabularies.bin").read_bytes()))
    except zlib.error:
        return {}
    return {name: [data.read(n_bytes) for n_bytes in data.read(n_text)] for name, (n_text, _) in _KNOWN.items()}
