from __future__ import annotations

from whisperq_edge._engines.ggml_words import Piece, group_words
from whisperq_edge._options import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS
from whisperq_edge._result import Word


def group(*texts: str, language: str = "en") -> list[Word]:
    pieces = [Piece(text.encode(), float(i), i + 0.5, 0.5) for i, text in enumerate(texts)]
    return group_words(pieces, language, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)


def test_words_start_at_spaces() -> None:
    words = group(" forty", " t", "wo", " x")
    assert [word.word for word in words] == [" forty", " two", " x"]
    assert (words[1].start, words[1].end) == (1.0, 2.5)


def test_punctuation_joins_its_word() -> None:
    assert [word.word for word in group(" hello", ",", " world", "!", " (", "aside", ")")] == [
        " hello,",
        " world!",
        " (aside)",
    ]


def test_characters_cut_by_tokens_are_joined() -> None:
    raw = " é".encode()
    pieces = [Piece(raw[:2], 0.0, 0.2, 0.4), Piece(raw[2:], 0.2, 0.6, 0.8)]
    [word] = group_words(pieces, "fr", "", "")
    assert word.word == " é" and word.end == 0.6
    assert abs(word.probability - 0.6) < 1e-9


def test_languages_without_spaces_have_a_word_per_character_group() -> None:
    assert [word.word for word in group("你", "好", "世界", language="zh")] == ["你", "好", "世界"]


def test_times_never_step_back() -> None:
    pieces = [Piece(b" one", 0.0, 2.0, 1.0), Piece(b" two", 1.0, 1.5, 1.0), Piece(b" six", 3.0, 2.5, 1.0)]
    words = group_words(pieces, "en", "", "")
    assert [(word.start, word.end) for word in words] == [(0.0, 2.0), (2.0, 2.0), (3.0, 3.0)]


def test_no_pieces_no_words() -> None:
    assert group() == []
