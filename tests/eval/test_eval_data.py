"""Sets of utterances: every layout that is read, and what is said of those that are damaged; texts and their errors."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Optional

import pytest
from whisperq_edge import DatasetError, OptionError
from whisperq_edge._eval import normalise as normalise_module
from whisperq_edge._eval.data import load_dataset
from whisperq_edge._eval.normalise import choose_normaliser, normaliser
from whisperq_edge._eval.words import Confusion, confusions, score


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def manifest(folder: Path, name: str, content: str, audio: tuple[str, ...] = ("a.wav", "b.wav", "c.wav")) -> Path:
    for each in audio:
        touch(folder / each)
    path = folder / name
    path.write_bytes(content.encode("utf-8"))
    return path


TSV = (
    "file\tduration_s\tspeaker\tsplit\ttext\n"
    'a.wav\t1\tx\ttrain\tONE\nb.wav\t1\ty\ttest\tTWO "three\nc.wav\t1\ty\ttest\tfour\n'
)
CSV = 'path,sentence,client_id\r\na.wav,"one, two",x\r\nb.wav,three,x\r\n'
JSONL = '{"audio_filepath": "a.wav", "text": "one", "duration": 1.5}\n\n{"audio_filepath": "b.wav", "text": ""}\n'


def test_tsv(tmp_path: Path) -> None:
    dataset = load_dataset(manifest(tmp_path, "m.tsv", TSV), split="test")
    assert [(each.id, each.text, each.speaker) for each in dataset.utterances] == [
        ("b.wav", 'TWO "three', "y"),
        ("c.wav", "four", "y"),
    ]
    assert dataset.speakers == ["y", "y"] and dataset.layout == "manifest"


def test_csv_and_jsonl(tmp_path: Path) -> None:
    dataset = load_dataset(manifest(tmp_path, "m.csv", "\ufeff" + CSV))
    assert [each.text for each in dataset.utterances] == ["one, two", "three"]
    dataset = load_dataset(manifest(tmp_path, "m.jsonl", JSONL))
    assert [each.text for each in dataset.utterances] == ["one", ""]
    assert dataset.speakers is None


def test_the_manifest_in_a_folder_and_the_clips_of_common_voice(tmp_path: Path) -> None:
    manifest(tmp_path, "manifest.csv", CSV, ("clips/a.wav", "clips/b.wav"))
    assert load_dataset(tmp_path).utterances[0].audio == tmp_path / "clips" / "a.wav"


def test_librispeech(tmp_path: Path) -> None:
    for id in ("84-121123-0000", "84-121123-0001"):
        touch(tmp_path / "84" / "121123" / f"{id}.flac")
    touch(tmp_path / "174" / "168635" / "174-168635-0000.flac")
    (tmp_path / "84/121123/84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN\n")
    (tmp_path / "174/168635/174-168635.trans.txt").write_text("174-168635-0000 HOW STRANGE\n")
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "librispeech" and dataset.speakers == ["174", "84", "84"]
    assert dataset.utterances[1].text == "GO DO YOU HEAR"
    (tmp_path / "84/121123/84-121123.trans.txt").write_text("84-121123-0000 GO\n../x MISSING\n")
    with pytest.raises(DatasetError, match="line 2: there is no audio file"):
        load_dataset(tmp_path)


def test_a_folder_with_texts_beside(tmp_path: Path) -> None:
    touch(tmp_path / "b" / "two.wav").with_suffix(".txt").write_text("second\nline\n")
    touch(tmp_path / "one.flac").with_suffix(".txt").write_text("first")
    dataset = load_dataset(tmp_path)
    assert [(each.id, each.text) for each in dataset.utterances] == [
        ("b/two.wav", "second line"),
        ("one.flac", "first"),
    ]
    touch(tmp_path / "three.mp3")
    with pytest.raises(DatasetError, match=r"three\.mp3: its text is missing"):
        load_dataset(tmp_path)


def test_a_limit_is_spread_over_the_set_and_always_the_same(tmp_path: Path) -> None:
    names = tuple(f"{i:02d}.wav" for i in range(20))
    path = manifest(tmp_path, "m.tsv", "file\ttext\n" + "".join(f"{name}\tx\n" for name in names), names)
    dataset = load_dataset(path, limit=4)
    assert [each.id for each in dataset.utterances] == ["00.wav", "05.wav", "10.wav", "15.wav"]
    assert dataset.n_all == 20 and len(load_dataset(path, limit=99).utterances) == 20


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("m.tsv", "", None, "no utterance"),
        ("m.tsv", "file\ttext\n", None, "no utterance"),
        ("m.tsv", "name\ttext\na.wav\tx\n", 1, "no column for the audio"),
        ("m.csv", "\n\nfile,words\na.wav,x\n", 3, "no column for the text"),
        ("m.tsv", "file\ttext\na.wav\tx\nb.wav\n", 3, "1 columns where the first line has 2"),
        ("m.tsv", "file\ttext\na.wav\tx\ty\n", 2, "3 columns"),
        ("m.tsv", "file\ttext\na.wav\tx\n\tx\n", 3, "no name of an audio file"),
        ("m.tsv", "file\ttext\na.wav\tx\nd.wav\tx\ne.wav\tx\n", 3, r"d\.wav is missing \(and 1 more of 3\)"),
        ("m.tsv", "file\ttext\na.wav\tx\nb.wav\tx\na.wav\ty\n", 4, "stands in line 2 already"),
        ("m.csv", 'file,text\na.wav,"x\nb.wav,y\n', 2, "cannot be read"),
        ("m.csv", "file,text\na.wav," + "x" * 200_000 + "\n", 2, "cannot be read"),
        ("m.jsonl", '{"file": "a.wav", "text": "x"}\n{"file": "b.wav", "text": \n', 2, "no JSON"),
        ("m.jsonl", '{"file": "a.wav", "text": "x"}\n[1]\n', 2, "a JSON object is needed, not list"),
        ("m.jsonl", '{"file": "a.wav"}\n', 1, "the text is missing"),
        ("m.jsonl", '{"text": "x"}\n', 1, "the audio is missing"),
        ("m.jsonl", '{"file": "a.wav", "text": 3}\n', 1, "text is 3: text is needed"),
        ("m.jsonl", '{"file": "a\\u0000.wav", "text": "x"}\n', 1, "no name of an audio file"),
        ("m.jsonl", "[" * 100_000 + "\n", 1, "no JSON"),
        ("m.xlsx", "PK", None, "a manifest is a"),
    ],
)
def test_damaged_manifests(tmp_path: Path, name: str, content: str, line: Optional[int], reason: str) -> None:
    path = manifest(tmp_path, name, content)
    with pytest.raises(DatasetError, match=reason) as caught:
        load_dataset(path)
    assert caught.value.line == line and str(path) in str(caught.value)


def test_what_is_no_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    path = manifest(tmp_path, "m.tsv", "")
    path.write_bytes(b"file\ttext\na.wav\tgr\xfc\xdf\n")
    with pytest.raises(DatasetError, match="line 2: byte 0xfc is no UTF-8"):
        load_dataset(path)


def test_a_manifest_cut_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    for name, content in (("m.tsv", TSV), ("m.csv", CSV), ("m.jsonl", JSONL)):
        for n in range(len(content)):
            path = manifest(tmp_path, name, content[:n])
            with contextlib.suppress(DatasetError):
                assert load_dataset(path).utterances


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        load_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="looked for a manifest"):
        load_dataset(tmp_path)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    path = manifest(tmp_path, "m.tsv", TSV)
    with pytest.raises(OptionError, match="one of test, train"):
        load_dataset(path, split="dev")
    with pytest.raises(OptionError, match="no column split"):
        load_dataset(manifest(tmp_path, "m.csv", CSV), split="dev")
    with pytest.raises(OptionError, match="limit=0"):
        load_dataset(path, limit=0)
    touch(tmp_path / "folder" / "x.wav")
    with pytest.raises(OptionError, match="only with a manifest"):
        load_dataset(tmp_path / "folder", split="test")


# --- texts ------------------------------------------------------------------------------------------------------------

TEXTS = [
    "Mr. Brown's colour, isn't it? [laughter] (cough) um",
    "He paid twenty-five dollars and 3 cents for one hundred and one apples.",
    "one two three oh five double seven",
    "kinda sorta dunno cause",
    "I'd've gone; they're won't can't gonna wanna",
    "Naïve café, 50% of £3.20 at 10:30",
    "the theatre's programme was cancelled in nineteen eighty four",
    "",
]


def test_english_is_openai_whispers() -> None:
    pytest.importorskip("whisper_normalizer")
    theirs = pytest.importorskip("whisper.normalizers").EnglishTextNormalizer()
    ours = normaliser("english")
    for text in TEXTS:
        assert ours(text) == " ".join(theirs(text).split())


def test_basic_is_openai_whispers() -> None:
    pytest.importorskip("whisper_normalizer")
    theirs = pytest.importorskip("whisper.normalizers").BasicTextNormalizer()
    for text in (*TEXTS, "Größe, «Straße» (leise)"):
        assert normaliser("basic", "de")(text) == " ".join(theirs(text).split())


def test_english_and_basic() -> None:
    pytest.importorskip("whisper_normalizer")
    assert normaliser("english")("Colour: twenty-one!") == "color 21"
    assert normaliser("basic")("Colour: twenty-one!") == "colour twenty one"
    assert normaliser("basic", "zh")("你好。吗") == "你 好 吗"
    assert normaliser("none")("  A  b,\n") == "A b,"


@pytest.mark.parametrize(
    ("kind", "language", "languages", "chosen"),
    [
        ("auto", "en", {"en", "other"}, "english"),
        ("auto", None, {"en"}, "english"),
        ("auto", None, {"en", "other"}, "basic"),
        ("auto", "de", {"other"}, "basic"),
        ("none", "en", {"en"}, "none"),
    ],
)
def test_which_normaliser(kind: str, language: Optional[str], languages: set[str], chosen: str) -> None:
    assert choose_normaliser(kind, language, languages) == chosen


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(normalise_module.importlib, "import_module", missing)
    with pytest.raises(OptionError, match=r"whisper-normalizer.*pip install 'whisperq-edge\[eval\]'"):
        normaliser("english")
    with pytest.raises(OptionError, match=r"jiwer.*pip install 'whisperq-edge\[eval\]'"):
        score("a", "b")
    with pytest.raises(OptionError, match="one of auto"):
        choose_normaliser("french", None)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_counted_by_hand() -> None:
    pytest.importorskip("jiwer")
    found = score("the cat sat on the mat", "a cat sat the mat now")  # the>a, on left out, now inserted
    assert (found.words, found.substitutions, found.deletions, found.insertions) == (6, 1, 1, 1)
    assert found.errors == 3
    assert sorted(found.pairs) == [("", "now"), ("on", ""), ("the", "a")]
    assert score("ab cd", "ab cx").character_errors == 1 and score("ab cd", "abcd").character_errors == 1
    assert score("ab cd", "ab cd").characters == 5


@pytest.mark.parametrize(
    ("said", "heard", "counts"),
    [
        ("one two", "", (0, 2, 0)),
        ("", "thank you", (0, 0, 2)),
        ("", "", (0, 0, 0)),
        ("a", "b c d", (1, 0, 2)),
        ("one", "one", (0, 0, 0)),
    ],
)
def test_errors_at_the_ends(said: str, heard: str, counts: tuple[int, int, int]) -> None:
    pytest.importorskip("jiwer")
    found = score(said, heard)
    assert (found.substitutions, found.deletions, found.insertions) == counts
    assert found.words == len(said.split()) and len(found.pairs) == found.errors


def test_frequent_confusions_come_first() -> None:
    pytest.importorskip("jiwer")
    scores = [score("b d", "p d"), score("b e", "p e"), score("m", ""), score("n", "m")]
    assert confusions(scores, 2) == [Confusion("b", "p", 2), Confusion("m", "", 1)]
    assert json.dumps([each.pairs for each in scores])


@pytest.mark.data
def test_a_real_corpus(speech_data: Path) -> None:
    dataset = load_dataset(speech_data / "an4", split="test")
    assert len(dataset.utterances) == 130 and len(set(dataset.speakers or ())) == 10
    assert sum(len(each.text.split()) for each in dataset.utterances) == 773
