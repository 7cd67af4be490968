"""Texts in many scripts, and what a tokenizer makes of them: for ``_whisper.tokenizer`` and openai/whisper's alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

MODELS = (
    (51864, None, None),
    (51865, "en", "transcribe"),
    (51865, "ja", "translate"),
    (51866, "yue", "transcribe"),
)

TEXTS = (
    "",
    " Hello, world! It's I'll we're they'd I've I'm don'T'S's",
    "two  spaces,   three \n\n newlines\tand a tab   ",
    "1234567 ½ ² Ⅳ ٣ 3.14 x86_64",
    "naïve café Ünïcödé e\u0301 ﬁ ß ſ",
    "日本語のテキストです。「かぎ」",
    "简体中文和繁體中文",
    "ภาษาไทยไม่มีช่องว่าง",
    "Привет, мир! Ёлка — «цитата»",
    "مرحبا بالعالم، كيف حالك؟",
    "नमस्ते दुनिया",
    "안녕하세요 세계",
    "שלום עולם",
    "გამარჯობა Բարեւ Γειά",
    "🎉🎊 emoji 👨‍👩‍👧 ♪♪ la ♫",
    "a\u00a0b\u3000c\x1cd\x85e\u200bf\ufeffg\x00h",
    "<|endoftext|> <|0.00|> is text here",
    " \"quoted\" (bracketed) [music] {x} -- --- ... '' ' \" ?!",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "\U0001d5d4\U0001d5d5 \U00020000 \U0010ffff",
)

_NAMES = (
    "eot",
    "sot",
    "translate",
    "transcribe",
    "sot_lm",
    "sot_prev",
    "no_speech",
    "no_timestamps",
    "timestamp_begin",
)


def describe(tokenizer: Any, encode: Callable[[str], list[int]], texts: Sequence[str]) -> dict[str, Any]:
    return {
        "special": [getattr(tokenizer, name) for name in _NAMES],
        "sot_sequence": list(tokenizer.sot_sequence),
        "non_speech": list(tokenizer.non_speech_tokens),
        "tokens": [encode(text) for text in texts],
        "words": [split(tokenizer, [*encode(text), tokenizer.eot]) for text in texts],
        # Characters that are cut in the middle: every other token.
        "broken": [tokenizer.decode(encode(text)[::2]) for text in texts],
        "broken_words": [split(tokenizer, [*encode(text)[::2], tokenizer.eot])[0] for text in texts],
        "times": tokenizer.decode_with_timestamps(
            [tokenizer.timestamp_begin, *encode(" a"), tokenizer.timestamp_begin + 54]
        ),
    }


def split(tokenizer: Any, tokens: list[int]) -> list[Any]:
    return list(tokenizer.split_to_word_tokens(tokens))
