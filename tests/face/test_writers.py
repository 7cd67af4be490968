"""The writers against openai/whisper: golden files made by its writers, and the writers themselves where installed."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whisperq_edge._errors import OptionError
from whisperq_edge._result import Segment, Timings, Transcript, Word, join_text
from whisperq_edge._system.files import atomic_write
from whisperq_edge._writers import FORMATS, render, write, write_all

from tests.support.paths import DATA

GOLDEN = DATA / "writers"
CASES = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
GOLDEN_FILES = sorted(path.name for path in GOLDEN.iterdir() if path.name != "cases.json")


def transcript_of(openai: dict[str, Any]) -> Transcript:
    segments = []
    for layout in openai["segments"]:
        words = [Word(**word) for word in layout["words"]] if "words" in layout else None
        segments.append(Segment(**{**layout, "words": words}))
    return Transcript(openai["text"], segments, openai["language"], 1.0, 0.0, Timings.zero(), {}, "tiny")


def small_transcript(*texts: str) -> Transcript:
    segments = [Segment(i, 0, float(i), i + 1.0, text, [], 0.0, 0.0, 1.0, 0.0) for i, text in enumerate(texts)]
    return Transcript(join_text(segments), segments, "en", 1.0, float(len(texts)), Timings.zero(), {}, "tiny")


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden(name: str) -> None:
    transcript_name, option_name, format = name.split(".")
    transcript = transcript_of(CASES["transcripts"][transcript_name])
    text = render(transcript, format, **CASES["options"][option_name])
    assert text.encode("utf-8") == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["empty", "segments", "unicode"])
def test_cue_options_change_nothing_without_words(name: str, format: str) -> None:
    transcript = transcript_of(CASES["transcripts"][name])
    for options in CASES["options"].values():
        assert render(transcript, format, **options) == render(transcript, format)


times = st.floats(0.0, 400_000.0, allow_nan=False)
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
wordlike = texts | st.sampled_from([" a", " word", " longer-word", " -->", "\n", " ", "", " tail\n", "\tx"])
words = st.builds(
    lambda word, start, end: {"word": word, "start": start, "end": end, "probability": 0.5}, wordlike, times, times
)
limits = st.none() | st.integers(1, 30)


@st.composite
def openai_results(draw: st.DrawFn) -> dict[str, Any]:
    has_words = draw(st.booleans())
    segments = []
    for i in range(draw(st.integers(0, 5))):
        layout: dict[str, Any] = {
            "id": i,
            "seek": draw(st.integers(0, 10**6)),
            "start": draw(times),
            "end": draw(times),
            "text": draw(wordlike),
            "tokens": draw(st.lists(st.integers(0, 51865), max_size=4)),
            "temperature": 0.2,
            "avg_logprob": draw(st.floats(-10.0, 0.0)),
            "compression_ratio": draw(st.floats(0.0, 10.0)),
            "no_speech_prob": draw(st.floats(0.0, 1.0)),
        }
        if has_words:
            layout["words"] = draw(st.lists(words, max_size=12))
        segments.append(layout)
    return {"text": "".join(piece["text"] for piece in segments), "segments": segments, "language": "en"}


@given(openai_results(), st.booleans(), limits, limits, limits)
def test_live_against_openai_whisper(
    result: dict[str, Any], highlight: bool, width: Optional[int], count: Optional[int], per_line: Optional[int]
) -> None:
    whisper_utils = pytest.importorskip("whisper.utils", reason="openai-whisper is not installed")
    options = {
        "highlight_words": highlight,
        "max_line_width": width,
        "max_line_count": count,
        "max_words_per_line": per_line,
    }
    for format in FORMATS:
        expected = io.StringIO()
        whisper_utils.get_writer(format, "").write_result(result, expected, dict(options))
        assert render(transcript_of(result), format, **options) == expected.getvalue()


def test_a_negative_time_is_written_as_zero() -> None:
    transcript = transcript_of(CASES["transcripts"]["segments"])
    early = Segment(**{**vars(transcript.segments[0]), "start": -0.5})
    moved = Transcript(**{**vars(transcript), "segments": [early]})
    assert render(moved, "srt").startswith("1\n00:00:00,000 --> 00:00:02,500\n")
    assert render(moved, "tsv").splitlines()[1].startswith("0\t2500\t")


def test_json_is_json_even_with_nan() -> None:
    segment = Segment(0, 0, 0.0, 1.0, "x", [1], 0.0, float("-inf"), 1.0, float("nan"))
    layout = json.loads(render(Transcript("x", [segment], "en", 1.0, 1.0, Timings.zero(), {}, "tiny"), "json"))
    assert layout["segments"][0]["avg_logprob"] is None
    assert layout["segments"][0]["no_speech_prob"] is None


def test_a_segment_without_words_among_segments_with_words_keeps_its_text() -> None:
    with_words = Segment(0, 0, 0.0, 1.0, " Hi", [], 0.0, 0.0, 1.0, 0.0, [Word(0.0, 1.0, " Hi", 0.9)])
    without = Segment(1, 0, 1.0, 2.0, " there", [], 0.0, 0.0, 1.0, 0.0)
    text = render(Transcript(" Hi there", [with_words, without], "en", 1.0, 2.0, Timings.zero(), {}, "tiny"), "srt")
    assert text == "1\n00:00:00,000 --> 00:00:01,000\nHi\n\n2\n00:00:01,000 --> 00:00:02,000\nthere\n\n"


@pytest.mark.parametrize("field", ["max_line_width", "max_line_count", "max_words_per_line"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
def test_wrong_limits(field: str, value: object) -> None:
    with pytest.raises(OptionError) as caught:
        render(small_transcript(" Hi"), "srt", **{field: value})
    assert (caught.value.field, caught.value.value) == (field, value)


def test_unknown_format_lists_the_formats() -> None:
    with pytest.raises(OptionError, match="one of txt, vtt, srt, tsv, json"):
        render(small_transcript(" Hi"), "docx")


def test_write_to_stream_and_path(tmp_path: Path) -> None:
    transcript = small_transcript(" Grüße", " 世界")
    stream = io.StringIO()
    write(transcript, "txt", stream)
    write(transcript, "txt", tmp_path / "größe 1.txt")
    assert stream.getvalue() == "Grüße\n世界\n"
    assert (tmp_path / "größe 1.txt").read_bytes() == "Grüße\n世界\n".encode()


def test_a_lone_surrogate_is_written_as_a_question_mark(tmp_path: Path) -> None:
    write(small_transcript("a\udc80b"), "txt", tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_bytes() == b"a?b\n"


def test_write_all(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    transcript = small_transcript(" Hi")
    paths = write_all(transcript, "all", folder, "talk.final")
    assert [path.name for path in paths] == [f"talk.final.{format}" for format in FORMATS]
    assert sorted(os.listdir(folder)) == sorted(path.name for path in paths)
    for path in paths:
        assert path.read_bytes() == render(transcript, path.suffix[1:]).encode()
    assert write_all(transcript, ["srt", "txt"], folder, "b") == [folder / "b.srt", folder / "b.txt"]


@pytest.mark.parametrize("formats", ["docx", ["txt", "docx"]])
def test_write_all_with_a_wrong_format_writes_nothing(tmp_path: Path, formats: Any) -> None:
    with pytest.raises(OptionError):
        write_all(small_transcript(" Hi"), formats, tmp_path / "out", "talk")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stem", ["", "a/b", "../b", "/b"])
def test_write_all_stays_in_its_folder(tmp_path: Path, stem: str) -> None:
    with pytest.raises(OptionError, match="stem"):
        write_all(small_transcript(" Hi"), "txt", tmp_path, stem)
    assert os.listdir(tmp_path) == []


def test_atomic_write_keeps_the_old_file_on_error(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_write(target) as stream:
            stream.write("half")
            assert target.read_text() == "old"
            raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_atomic_write_binary_and_newlines(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a", "wb") as stream:
        stream.write(b"\x00\r\n")
    with atomic_write(tmp_path / "b") as stream:
        stream.write("ä\n")
    assert (tmp_path / "a").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "b").read_bytes() == "ä\n".encode()
    with pytest.raises(ValueError, match="mode"), atomic_write(tmp_path / "b", "a"):
        pass


def test_atomic_write_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"file\.txt"), atomic_write(tmp_path / "missing" / "file.txt"):
        pass
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="rights and links as POSIX has them")
def test_atomic_write_rights_and_links(tmp_path: Path) -> None:
    new, old, link = tmp_path / "new", tmp_path / "old", tmp_path / "link"
    umask = os.umask(0o027)
    try:
        with atomic_write(new) as stream:
            stream.write("new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640

    old.write_text("old")
    old.chmod(0o604)
    link.symlink_to(old)
    with atomic_write(link) as stream:
        stream.write("changed")
    assert link.is_symlink()
    assert old.read_text() == "changed"
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


@pytest.mark.skipif(os.name != "posix", reason="/dev/null is POSIX")
def test_atomic_write_does_not_replace_a_device() -> None:
    with atomic_write("/dev/null") as stream:
        stream.write("gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
