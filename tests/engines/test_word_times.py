from __future__ import annotations

import base64
import gzip
import random
from typing import Any

import numpy as np
import pytest
from whisperq_edge._engines.word_times import WordTiming, alignment_heads, merge_punctuation, steady_words
from whisperq_edge._options import APPEND_PUNCTUATIONS, PREPEND_PUNCTUATIONS

# n_text_layer, n_text_head, n_vocab
MODELS = {
    "tiny.en": (4, 6, 51864),
    "tiny": (4, 6, 51865),
    "base.en": (6, 8, 51864),
    "base": (6, 8, 51865),
    "small.en": (12, 12, 51864),
    "small": (12, 12, 51865),
    "medium.en": (24, 16, 51864),
    "medium": (24, 16, 51865),
    "large-v2": (32, 20, 51865),
    "large-v3": (32, 20, 51866),
    "large-v3-turbo": (4, 20, 51866),
}


def hparams(n_layer: int, n_head: int, n_vocab: int) -> dict[str, int]:
    return {"n_text_layer": n_layer, "n_text_head": n_head, "n_vocab": n_vocab}


@pytest.mark.parametrize("name", MODELS)
def test_heads_are_those_of_openai_whisper(name: str) -> None:
    whisper = pytest.importorskip("whisper")
    n_layer, n_head, n_vocab = MODELS[name]
    dump = gzip.decompress(base64.b85decode(whisper._ALIGNMENT_HEADS[name]))
    theirs = np.argwhere(np.frombuffer(dump, bool).reshape(n_layer, n_head))
    assert alignment_heads(hparams(n_layer, n_head, n_vocab)) == [tuple(pair) for pair in theirs.tolist()]


def test_other_models_align_by_the_upper_half() -> None:
    assert alignment_heads(hparams(3, 2, 51864)) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert alignment_heads(hparams(1, 1, 51864)) == [(0, 0)]


@pytest.mark.parametrize("model", MODELS.values())
def test_heads_are_heads_of_the_model(model: tuple[int, int, int]) -> None:
    n_layer, n_head, _ = model
    heads = alignment_heads(hparams(*model))
    assert heads and len(set(heads)) == len(heads)
    assert all(layer < n_layer and head < n_head for layer, head in heads)


def words(*texts: str) -> list[WordTiming]:
    return [WordTiming(text, [i], float(i), i + 1.0, 0.5) for i, text in enumerate(texts)]


def test_punctuation_joins_its_word() -> None:
    found = words(" hello", ",", ' "', " (", "world", ")", '."', " a", " -", " b")
    merge_punctuation(found, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)
    assert [(word.word, word.tokens) for word in found if word.word] == [
        (" hello,", [0, 1]),
        (' " (world)', [2, 3, 4, 5]),
        ('."', [6]),
        (" a", [7]),
        (" - b", [8, 9]),
    ]


def test_punctuation_joins_as_in_openai_whisper() -> None:
    timing = pytest.importorskip("whisper.timing")
    texts = (" a", "b", ",", ".", " (", " [", ")", " -", "-", ' "', '"', "", " ", "。", "...", " 'x'")
    dice = random.Random(0)
    for _ in range(300):
        chosen = [dice.choice(texts) for _ in range(dice.randrange(12))]
        ours = words(*chosen)
        theirs: list[Any] = [timing.WordTiming(w.word, w.tokens, w.start, w.end, w.probability) for w in words(*chosen)]
        merge_punctuation(ours, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)
        timing.merge_punctuations(theirs, PREPEND_PUNCTUATIONS, APPEND_PUNCTUATIONS)
        assert [(w.word, w.tokens) for w in ours] == [(w.word, w.tokens) for w in theirs]


def test_words_leave_in_order_and_inside() -> None:
    wild = [
        WordTiming(" a", [1], -1.0, 2.0, 0.5),
        WordTiming(" b", [2], 1.5, 1.2, 0.5),
        WordTiming(" c", [3], 4.0, 9.0, 0.5),
        WordTiming(" d", [4], 8.0, 9.5, 0.5),
    ]
    assert [(w.word, w.start, w.end) for w in steady_words(wild, 0.5, 5.0)] == [
        (" a", 0.5, 2.0),
        (" b", 2.0, 2.0),
        (" c", 4.0, 5.0),
        (" d", 5.0, 5.0),
    ]
