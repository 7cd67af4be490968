"""Whisper's vocabularies and mel filters as they come with us: the same bytes as openai/whisper's."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from whisperq_edge import InternalError, UnsupportedModelError
from whisperq_edge._core import read_model_file
from whisperq_edge._system.native import data_file
from whisperq_edge._whisper import vocabulary
from whisperq_edge._whisper.mel_filters import mel_filters
from whisperq_edge._whisper.vocabulary import (
    check_vocabulary,
    describe_difference,
    known_vocabulary,
    token_bytes,
    vocabulary_name,
)

from tests.support.make_model import NANO, UPSTREAM_MODELS, vocabulary_of

N_VOCABS = {51864: "english", 51865: "multilingual", 51866: "multilingual"}


def _upstreams_vocabulary(n_vocab: int) -> list[bytes]:
    """As whisper.cpp's test files have it, with bytes lost."""
    return vocabulary_of(
        UPSTREAM_MODELS / ("for-tests-ggml-base.en.bin" if n_vocab == 51864 else "for-tests-ggml-base.bin")
    )


def _tiktoken(name: str) -> list[bytes]:
    """openai/whisper's text tokens by id, from the file that it ships."""
    whisper = pytest.importorskip("whisper")
    path = Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken"
    pairs = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {int(pair[-1]): base64.b64decode(pair[0]) if len(pair) == 2 else b"" for pair in pairs}
    return [ranks[i] for i in range(len(ranks))]


# ---- Vocabularies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", N_VOCABS)
def test_the_bundled_vocabularies_are_the_known_ones(n_vocab: int) -> None:
    tokens = known_vocabulary(n_vocab)
    assert len(tokens) == 50257 and len(set(tokens)) == 50257
    assert check_vocabulary(tokens, n_vocab) == vocabulary_name(n_vocab) == N_VOCABS[n_vocab]


def test_the_english_one_is_that_of_nano() -> None:
    assert known_vocabulary(51864) == read_model_file(NANO).vocabulary
    assert known_vocabulary(51864)[50256:] == [b"<|endoftext|>"]
    assert check_vocabulary(known_vocabulary(51864)[:50256], 51864) == "english"


@pytest.mark.parametrize(("n_vocab", "name", "n_text"), [(51864, "gpt2", 50256), (51865, "multilingual", 50257)])
def test_they_are_those_of_openai(n_vocab: int, name: str, n_text: int) -> None:
    tokens = _tiktoken(name)
    assert len(tokens) == n_text
    assert known_vocabulary(n_vocab)[:n_text] == tokens


def test_the_asset_is_written_from_openais_files() -> None:
    packed = b"".join(bytes(map(len, tokens)) + b"".join(tokens) for tokens in map(_tiktoken, ("gpt2", "multilingual")))
    assert zlib.decompress(data_file("assets/vocabularies.bin").read_bytes()) == packed


@pytest.mark.parametrize(
    ("n_vocab", "digest"),
    [
        (51864, "a5623714bcf19049eb0fd78df19b6daa1e61ac435b86a5deae767768e7fcdc3d"),
        (51865, "7a1796f07fce01ae84cc2f83b9a72da17dc652ddc339cb113edcc4c60094f418"),
        (51866, "7a1796f07fce01ae84cc2f83b9a72da17dc652ddc339cb113edcc4c60094f418"),
    ],
)
def test_all_tokens_are_what_they_were(n_vocab: int, digest: str) -> None:
    """The digests are of the vocabularies read from nano and from upstream's file, with its lost bytes put back."""
    tokens = known_vocabulary(n_vocab)
    assert hashlib.sha256(b"".join(struct.pack("<I", len(t)) + t for t in tokens)).hexdigest() == digest


def test_parts_of_characters_are_whole_again() -> None:
    """The single bytes that are no ASCII, of which every other character can be made."""
    single = {token for token in known_vocabulary(51865) if len(token) == 1}
    assert single == {bytes([byte]) for byte in range(256)}


def test_a_list_belongs_to_who_asked_for_it() -> None:
    known_vocabulary(51865).clear()
    assert len(known_vocabulary(51865)) == 50257


def test_special_tokens_after_the_text_do_not_matter() -> None:
    tokens = known_vocabulary(51866)
    assert check_vocabulary([*tokens, b"<|endoftext|>", b"<|startoftranscript|>"], 51866) == "multilingual"
    assert check_vocabulary([*tokens, *[b""] * 1610], 51866) is None  # more than the model has


@pytest.mark.parametrize("n_vocab", N_VOCABS)
def test_another_vocabulary_is_not_taken_for_one_of_them(n_vocab: int) -> None:
    tokens = known_vocabulary(n_vocab)
    swapped = [*tokens]
    swapped[1000], swapped[1001] = swapped[1001], swapped[1000]
    # The same bytes with another border between two tokens.
    moved = [*tokens]
    moved[2000], moved[2001] = tokens[2000] + tokens[2001][:1], tokens[2001][1:]
    for wrong in ([], tokens[:50255], swapped, moved, known_vocabulary(51864 if n_vocab > 51864 else 51865)):
        assert check_vocabulary(wrong, n_vocab) is None
    assert "2 of its" in describe_difference(swapped, n_vocab)
    assert "50255 tokens" in describe_difference(tokens[:50255], n_vocab)


def test_a_vocabulary_that_an_old_converter_damaged_is_named() -> None:
    if not UPSTREAM_MODELS.exists():
        pytest.skip("upstream is not unpacked")
    for n_vocab, n_damaged in ((51864, 344), (51865, 1476)):
        tokens = _upstreams_vocabulary(n_vocab)
        assert check_vocabulary(tokens, n_vocab) is None
        assert f"{n_damaged} of its tokens lost bytes" in describe_difference(tokens, n_vocab)


def test_a_size_that_no_whisper_has() -> None:
    with pytest.raises(UnsupportedModelError, match="32000"):
        known_vocabulary(32000)
    assert check_vocabulary(known_vocabulary(51865), 32000) is None


def test_tokens_of_gpt2s_files() -> None:
    assert token_bytes("ĠHello") == b" Hello"
    assert token_bytes("Ċ") == b"\n" and token_bytes("Ġ") == b" " and token_bytes("") == b""
    assert token_bytes("ä½ł") == "你".encode()
    assert token_bytes("<|endoftext|>") == b"<|endoftext|>"
    assert token_bytes("a b") is None and token_bytes("你") is None
    alphabet = vocabulary._byte_of_character()
    assert len(alphabet) == 256 and set(alphabet.values()) == set(range(256))


def test_every_token_is_spelled_as_gpt2_spells_it() -> None:
    character = {byte: char for char, byte in vocabulary._byte_of_character().items()}
    for token in known_vocabulary(51865):
        assert token_bytes("".join(character[byte] for byte in token)) == token


def _changed(data: bytes, at: int) -> bytes:
    plain = bytearray(zlib.decompress(data))
    plain[at] ^= 1
    return zlib.compress(plain)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:1000],
        lambda data: data[:-1],
        lambda data: zlib.compress(zlib.decompress(data)[:1000]),
        lambda data: zlib.compress(zlib.decompress(data)[:-1]),
        lambda data: _changed(data, -8),
        lambda data: _changed(data, 8),
    ],
)
def test_a_damaged_install_is_an_error(damage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "damaged.bin").write_bytes(damage(data_file("assets/vocabularies.bin").read_bytes()))
    monkeypatch.setattr(vocabulary, "data_file", lambda name: tmp_path / "damaged.bin")
    with pytest.raises(InternalError, match="the multilingual vocabulary in the installed package is damaged"):
        vocabulary._known_vocabulary.__wrapped__("multilingual")


# ---- Mel filters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filters_are_openais_to_the_bit(n_mels: int) -> None:
    whisper = pytest.importorskip("whisper")
    with np.load(Path(whisper.__file__).parent / "assets" / "mel_filters.npz", allow_pickle=False) as file:
        expected = file[f"mel_{n_mels}"]
    assert mel_filters(n_mels).dtype == np.float32
    assert mel_filters(n_mels).tobytes() == expected.tobytes()


def test_mel_filters_are_those_of_nano_to_the_bit() -> None:
    model = read_model_file(NANO)
    data = NANO.read_bytes()[model.mel_filters_offset :]
    assert mel_filters(80).tobytes() == data[: 4 * 80 * 201]


def test_mel_filters_equal_upstreams() -> None:
    """Equal as numbers: one zero is negative in openai/whisper's file and positive in upstream's."""
    if not UPSTREAM_MODELS.exists():
        pytest.skip("upstream is not unpacked")
    stored = np.frombuffer((UPSTREAM_MODELS / "for-tests-ggml-base.bin").read_bytes(), "<f4", 80 * 201, 56)
    assert np.array_equal(mel_filters(80), stored.reshape(80, 201))


def test_mel_filters_cannot_be_changed() -> None:
    with pytest.raises(ValueError):
        mel_filters(128)[0, 0] = 1.0
