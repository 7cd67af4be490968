from __future__ import annotations

import json
import random
from typing import Any, Optional

import pytest
from whisperq_edge import OptionError, UnsupportedModelError
from whisperq_edge._whisper.languages import LANGUAGES
from whisperq_edge._whisper.tokenizer import Tokenizer, Vocabulary

from tests.support.make_model import real_vocabulary
from tests.support.paths import DATA
from tests.support.tokenizer_texts import MODELS, TEXTS, describe

GOLDEN = DATA / "longform" / "tokenizer.json"
VOCABULARIES = {n_vocab: Vocabulary(real_vocabulary(n_vocab), n_vocab) for n_vocab in (51864, 51865, 51866)}


@pytest.mark.parametrize("index", range(len(MODELS)))
def test_equal_to_openai_whisper_on_golden_data(index: int) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[index]
    n_vocab, language, task = MODELS[index]
    tokenizer = Tokenizer(VOCABULARIES[n_vocab], language, task)
    found = describe(tokenizer, tokenizer.encode, TEXTS)
    assert (golden.pop("n_vocab"), golden.pop("language"), golden.pop("task")) == MODELS[index]
    for name, value in golden.items():
        assert json.loads(json.dumps(found[name])) == value, name


@pytest.mark.parametrize(("n_vocab", "language", "task"), MODELS)
def test_equal_to_openai_whisper_on_random_text(n_vocab: int, language: Optional[str], task: Optional[str]) -> None:
    openai = pytest.importorskip("whisper.tokenizer")
    theirs: Any = openai.get_tokenizer(
        n_vocab > 51864, num_languages=99 + (n_vocab == 51866), language=language, task=task
    )
    ours = Tokenizer(VOCABULARIES[n_vocab], language, task)
    dice = random.Random(n_vocab)
    # Blocks whose categories no version of Unicode has changed for long.
    blocks = ((32, 127), (32, 127), (0xA0, 0x250), (0x370, 0x3FF), (0x400, 0x500), (0xE01, 0xE5C), (0x3000, 0x30FF))
    for _ in range(400):
        text = "".join(chr(dice.randrange(*dice.choice(blocks))) for _ in range(dice.randrange(40)))
        tokens = theirs.encoding.encode_ordinary(text)
        assert ours.encode(text) == tokens, text
        assert ours.decode(tokens) == text
        garbled = [dice.randrange(theirs.eot) for _ in range(dice.randrange(1, 20))] + [theirs.eot]
        assert ours.split_to_word_tokens(garbled) == theirs.split_to_word_tokens(garbled)
        assert ours.decode(garbled) == theirs.decode(garbled)


def test_languages_follow_sot_in_their_order() -> None:
    tokenizer = Tokenizer(VOCABULARIES[51866], "yue")
    assert tokenizer.language_codes == tuple(LANGUAGES)
    assert tokenizer.language_token("yue") == tokenizer.language_tokens[-1] == tokenizer.translate - 1
    assert tokenizer.sot_sequence == (tokenizer.sot, tokenizer.language_token("yue"), tokenizer.transcribe)
    with pytest.raises(OptionError, match="99 languages"):
        Tokenizer(VOCABULARIES[51865], "yue")


def test_an_english_model_has_no_language() -> None:
    tokenizer = Tokenizer(VOCABULARIES[51864], "en", "transcribe")
    assert tokenizer.language is None
    assert tokenizer.sot_sequence == (tokenizer.sot,)


def test_a_vocabulary_that_lost_bytes_is_put_right() -> None:
    damaged = [token.decode("utf-8", "replace").encode() for token in real_vocabulary(51865)]
    text = "日本語 🎉"
    assert Vocabulary(damaged, 51865).encode(text) == VOCABULARIES[51865].encode(text)
    assert Vocabulary(damaged, 51865).decode(VOCABULARIES[51865].encode(text)) == text


def test_halves_of_characters_do_not_fail() -> None:
    vocabulary = VOCABULARIES[51865]
    assert vocabulary.encode("\ud83d\ude00") == vocabulary.encode("\U0001f600")
    assert vocabulary.decode(vocabulary.encode("a\ud800b")) == "a\N{REPLACEMENT CHARACTER}b"


def test_a_long_word() -> None:
    word = "abcdefghij" * 10_000  # takes for ever where merging is quadratic
    assert VOCABULARIES[51865].decode(VOCABULARIES[51865].encode(word)) == word


def test_no_model_has_this_many_tokens() -> None:
    with pytest.raises(UnsupportedModelError, match="1000"):
        Vocabulary([b"a"], 1000)
