"""Where ``whisperq-edge transcribe`` puts what it heard, and what its options do."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from whisperq_edge import CancelledError, InterruptedByUser, OptionError, Transcript, WhisperModel
from whisperq_edge.cli import main
from whisperq_edge.cli.messages import encodable_stdout
from whisperq_edge.cli.transcribe import _temperatures

from tests.support.cli_runner import cli_runner

soundfile = pytest.importorskip("soundfile")


def transcribe(*arguments: object) -> Result:
    quick = ("--beam-size", "1", "--temperature-increment-on-fallback", "0")
    return cli_runner().invoke(main, ["transcribe", "-m", "nano", "--device", "cpu", *quick, *map(str, arguments)])


def report_of(*arguments: object) -> dict[str, Any]:
    result = transcribe(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    [transcript] = json.loads(result.stdout)["transcripts"]
    return dict(transcript)


@pytest.fixture
def silence(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "silence.wav", [0.0] * 16_000, 16_000)
    return tmp_path / "silence.wav"


def stop_with(monkeypatch: pytest.MonkeyPatch, error: type[CancelledError]) -> None:
    """Every call is ended after its last segment but one."""
    whole = WhisperModel.transcribe

    def stopped(self: WhisperModel, *arguments: Any, **options: Any) -> Transcript:
        heard = whole(self, *arguments, **options)
        kept = heard.segments[:-1]
        text = "".join(segment.text for segment in kept)
        raise error("stopped", Transcript(**{**vars(heard), "segments": kept, "text": text}))

    monkeypatch.setattr(WhisperModel, "transcribe", stopped)


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("a/x.flac", "b/x.wav"), ("x.flac", "x.partial.flac"), ("stdin.wav", "-")])
def test_two_inputs_do_not_become_one_file(tmp_path: Path, names: tuple[str, str]) -> None:
    out = tmp_path / "out"
    result = transcribe(*names, "-o", out)
    assert result.exit_code == 2 and all(name in result.stderr for name in names)
    assert "Traceback" not in result.stderr and not out.exists()


def test_inputs_of_one_name_are_fine_on_stdout(sample_path: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    shutil.copy(sample_path, tmp_path / "b" / "sample.flac")
    result = transcribe(sample_path, tmp_path / "b" / "sample.flac")
    assert result.exit_code == 0 and len(result.stdout.split()) % 2 == 0


@pytest.mark.parametrize(("error", "code"), [(CancelledError, 1), (InterruptedByUser, 130)])
def test_what_ended_early_is_marked_and_replaces_nothing(
    monkeypatch: pytest.MonkeyPatch, sample_path: Path, tmp_path: Path, error: type[CancelledError], code: int
) -> None:
    assert transcribe(sample_path, "-o", tmp_path, "-f", "all").exit_code == 0
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    stop_with(monkeypatch, error)
    result = transcribe(sample_path, "-o", tmp_path, "-f", "all", "--json", "--timeout", "60")
    assert result.exit_code == code
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole
    partial = (tmp_path / "sample.partial.txt").read_bytes()
    assert partial and whole["sample.txt"].startswith(partial) and partial != whole["sample.txt"]
    assert len(list(tmp_path.iterdir())) == 2 * len(whole)

    assert "s of audio are transcribed" in result.stderr and "sample.partial.*" in result.stderr
    assert ".partial;" not in result.stderr and "timeout_s" not in result.stderr
    report = json.loads(result.stdout)
    assert [each["partial"] for each in report["transcripts"]] == [True]
    assert [each["error"] for each in report["failures"]] == [error.__name__]


def test_a_whole_transcript_says_so(sample_path: Path) -> None:
    assert report_of(sample_path)["partial"] is False


def test_nothing_heard_leaves_no_partial_file(sample_path: Path, tmp_path: Path) -> None:
    result = transcribe(sample_path, "-o", tmp_path, "--timeout", "0.000001")
    assert result.exit_code == 1 and list(tmp_path.iterdir()) == []
    assert result.stderr == f"whisperq-edge: {sample_path}: --timeout 1e-06 went by: nothing is transcribed\n"


@pytest.mark.parametrize("place", ["file/sub", "/proc/none"])
def test_a_folder_that_cannot_be_is_told_before_the_work(sample_path: Path, tmp_path: Path, place: str) -> None:
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("needs /proc")
    (tmp_path / "file").write_text("")
    result = transcribe(sample_path, "-o", tmp_path / place, "-m", tmp_path / "no-model.bin")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"whisperq-edge: --output-dir {tmp_path / place} is not possible: ")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_that_cannot_be_written_is_one_failure_and_its_text_is_kept(
    sample_path: Path, sample_text: str, tmp_path: Path, as_json: bool
) -> None:
    second, out = tmp_path / "second.flac", tmp_path / "out"
    shutil.copy(sample_path, second)
    (out / "sample.txt").mkdir(parents=True)
    result = transcribe(sample_path, second, "-o", out, *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert (out / "second.txt").read_text(encoding="utf-8").split() == sample_text.split()
    assert result.stderr.startswith(f"whisperq-edge: {sample_path}: {out / 'sample.txt'}: ")
    if not as_json:
        assert result.stdout.split() == sample_text.split()
        return
    report = json.loads(result.stdout)
    assert [each["file"] for each in report["transcripts"]] == [str(sample_path), str(second)]
    assert [each["file"] for each in report["failures"]] == [str(sample_path)]


# ---- Documents and stdout --------------------------------------------------------------------------------------------


def test_a_transcript_whose_writing_is_interrupted_is_printed(
    monkeypatch: pytest.MonkeyPatch, sample_path: Path, sample_text: str, tmp_path: Path
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("whisperq_edge.cli.outputs.write_all", interrupted)
    result = transcribe(sample_path, sample_path.parent / "none.wav", "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stdout.split() == sample_text.split()
    assert "interrupted while its transcript was written: it is on stdout instead" in result.stderr
    assert [*(tmp_path / "out").iterdir()] == []


def test_no_text_is_no_line(silence: Path, tmp_path: Path) -> None:
    result = transcribe(silence)
    assert (result.exit_code, result.stdout) == (0, "")
    assert transcribe(silence, "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "silence.txt").read_bytes() == b""


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names there are Unicode")
def test_a_name_that_is_no_utf8_is_escaped_in_json(silence: Path) -> None:
    odd = os.fsdecode(os.fsencode(silence.parent) + b"/\xff.wav")
    silence.rename(odd)
    result = transcribe(odd, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout_bytes.decode("utf-8"))
    assert document["transcripts"][0]["file"] == odd


CHINESE = "你好, 世界"


@pytest.fixture
def speaks_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call hears the same."""
    whole = WhisperModel.transcribe

    def chinese(self: WhisperModel, *arguments: Any, **options: Any) -> Transcript:
        heard = whole(self, *arguments, **options)
        segments = [dataclasses.replace(segment, text=CHINESE) for segment in heard.segments[:1]]
        return Transcript(**{**vars(heard), "segments": segments, "text": CHINESE})

    monkeypatch.setattr(WhisperModel, "transcribe", chinese)


def with_stdout(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object, errors: str = "strict") -> Any:
    """What a process prints whose stdout has an encoding: the bytes, stderr and the exit status."""
    stdout, stderr = io.BytesIO(), io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(stdout, encoding=encoding, errors=errors))
        patch.setattr(sys, "stderr", stderr)
        command = ["transcribe", "-m", "nano", "--device", "cpu", "--beam-size", "1", *map(str, arguments)]
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert sys.stdout.errors == errors
        sys.stdout.flush()
        return stdout.getvalue(), stderr.getvalue(), ended.value.code


@pytest.mark.usefixtures("speaks_chinese")
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
@pytest.mark.parametrize("format", ["txt", "srt", "json", "all"])
def test_a_stdout_that_lacks_characters_gets_all_files_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, sample_path: Path, encoding: str, format: str
) -> None:
    printed, said, code = with_stdout(monkeypatch, encoding, sample_path, sample_path, "-f", format)
    assert code == 0
    if format == "json":
        assert printed.count(json.dumps(CHINESE).encode("ascii")) >= 2 and "lacks" not in said
        return
    assert printed.count(b"??, ??") == (8 if format == "all" else 2)
    warning = f"whisperq-edge: stdout's encoding, {encoding}, lacks characters of what was printed: ? stands for each."
    assert said.count(warning) == said.count("lacks") == 1 and "PYTHONIOENCODING=utf-8" in said


@pytest.mark.usefixtures("speaks_chinese")
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "utf-16"])
def test_json_loses_nothing_on_any_stdout(monkeypatch: pytest.MonkeyPatch, sample_path: Path, encoding: str) -> None:
    odd = "\udcff.wav" if sys.platform not in ("win32", "darwin") else "none.wav"
    printed, said, code = with_stdout(monkeypatch, encoding, sample_path, odd, "--json")
    document = json.loads(printed.decode(encoding))
    assert [each["text"] for each in document["transcripts"]] == [CHINESE]
    assert [each["file"] for each in document["failures"]] == [odd]
    assert code == 1 and "lacks" not in said


@pytest.mark.usefixtures("speaks_chinese")
def test_a_rule_of_stdout_for_characters_that_it_lacks_is_kept(
    monkeypatch: pytest.MonkeyPatch, sample_path: Path
) -> None:
    printed, said, code = with_stdout(monkeypatch, "cp1252", sample_path, errors="backslashreplace")
    assert (code, said) == (0, "") and printed.strip() == CHINESE.encode("cp1252", "backslashreplace")


def test_bytes_of_names_that_are_no_text_come_out_as_stdout_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for errors, expected in (("surrogateescape", b"\xff ?\n"), ("strict", b"\\udcff ?\n")):
        stdout = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout, encoding="ascii", errors=errors))
        with encodable_stdout():
            print("\udcff 世")
        sys.stdout.flush()
        assert stdout.getvalue() == expected


def test_a_process_with_a_stdout_that_lacks_characters(multilingual_path: Path, sample_path: Path) -> None:
    program = (
        "import sys; from whisperq_edge import _result; from whisperq_edge.cli import main;"
        "import whisperq_edge.cli.outputs as o; o.render = lambda *a, **k: '你好'; main()"
    )
    command = [sys.executable, "-c", program, "transcribe", "-m", str(multilingual_path), str(sample_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "1"}
    run = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert run.stdout.split() == [b"??"] and run.stderr.count(b"lacks characters") == 1


# ---- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--batch-size", "2"], "batch_size", 2),
        (["--audio_ctx", "auto"], "audio_ctx", "auto"),
        (["--audio-ctx", "1500"], "audio_ctx", 1500),
        (["--hotwords", "mark"], "hotwords", "mark"),
        (["--prefix", "seven"], "prefix", "seven"),
        (["--seed", "7"], "seed", 7),
        (["--multilingual"], "multilingual", True),
        (["--drop-silence", "False"], "drop_silence", False),
        (["--chunk-length", "20"], "chunk_length", 20),
        (["--repetition-penalty", "1.5"], "repetition_penalty", 1.5),
        (["--no-repeat-ngram-size", "3"], "no_repeat_ngram_size", 3),
        (["--max-new-tokens", "9"], "max_new_tokens", 9),
        (["--vad-threshold", "0.4", "--vad-filter"], "vad_parameters", {"threshold": 0.4}),
        (["--vad-threshold", "0.4", "--batch-size", "2"], "vad_parameters", {"threshold": 0.4}),
    ],
)
def test_options_arrive(silence: Path, arguments: list[str], name: str, value: Any) -> None:
    assert report_of(silence, *arguments)["options"][name] == value


def test_the_audio_track_arrives(silence: Path) -> None:
    assert report_of(silence, "--audio_track", "0")
    result = transcribe(silence, "--audio-track", "1")
    assert result.exit_code == 1 and f"{silence} has one audio track, 0; there is no track 1" in result.stderr
    assert transcribe(silence, "--audio-track", "-1").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--highlight-words"], "--word-timestamps"),
        (["--max-line-width", "40"], "--word-timestamps"),
        (["--max-words-per-line", "4", "--word-timestamps", "False"], "--word-timestamps"),
        (["--max-line-count", "2", "--word-timestamps"], "--max-line-width"),
        (["--prepend-punctuations", "("], "--word-timestamps"),
        (["--hallucination-silence-threshold", "2"], "--word-timestamps"),
        (["--carry-initial-prompt"], "--initial-prompt"),
        (["--vad-threshold", "0.4"], "--vad-filter"),
    ],
)
def test_an_option_that_would_do_nothing_names_what_it_needs(arguments: list[str], needed: str) -> None:
    result = transcribe("missing.wav", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"whisperq-edge: {arguments[0]}") and needed in result.stderr
    assert "missing.wav" not in result.stderr


def test_what_does_nothing_when_switched_off_needs_nothing(silence: Path) -> None:
    assert report_of(silence, "--highlight-words", "False", "--carry-initial-prompt", "False")


def test_limits_that_exclude_each_other() -> None:
    limits = ["--max-line-width", "40", "--max-line-count", "2", "--max-words-per-line", "3"]
    result = transcribe("missing.wav", "--word-timestamps", *limits)
    assert result.exit_code == 2 and "--max-line-width and --max-line-count" in result.stderr


def test_the_ladder_of_temperatures() -> None:
    assert _temperatures(None, None) is None
    assert _temperatures(0.0, None) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert _temperatures(0.3, 0.1) == (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert _temperatures(0.5, 0) == _temperatures(0.5, 3) == (0.5,)
    assert _temperatures(1.5, None) == (1.5,)
    assert len(_temperatures(0.0, 0.02) or ()) == 51
    for wrong in (1e-300, 1e-7, 0.001, -0.2, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(OptionError, match="temperature_increment_on_fallback"):
            _temperatures(0.0, wrong)


@pytest.mark.parametrize("name", ["t", "no", "1", "True", "off"])
def test_a_file_after_a_switch_is_a_file(
    monkeypatch: pytest.MonkeyPatch, silence: Path, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    silence.rename(tmp_path / name)
    transcript = report_of("--word-timestamps", name)
    assert (transcript["file"], transcript["options"]["word_timestamps"]) == (name, True)


def test_after_two_dashes_all_are_files(monkeypatch: pytest.MonkeyPatch, silence: Path, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    silence.rename(tmp_path / "--vad-filter")
    result = transcribe("--json", "--", "--vad-filter")
    assert [each["file"] for each in json.loads(result.stdout)["transcripts"]] == ["--vad-filter"]


# ---- Options of openai/whisper's command and of whisper.cpp's --------------------------------------------------------


@pytest.mark.parametrize(
    "given", [["-f", "srt,vtt"], ["-f", "srt", "-f", "vtt"], ["--output_format", " SRT , vtt,srt"]]
)
def test_several_formats_become_files(sample_path: Path, tmp_path: Path, given: list[str]) -> None:
    result = transcribe(sample_path, "-o", tmp_path / "out", *given)
    assert result.exit_code == 0 and result.stdout == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sample.srt", "sample.vtt"]


def test_several_formats_are_printed_one_after_the_other(sample_path: Path) -> None:
    parts = [transcribe(sample_path, "-f", form).stdout for form in ("vtt", "txt")]
    assert transcribe(sample_path, "-f", "vtt,txt").stdout == "".join(parts)
    assert transcribe(sample_path).stdout == parts[1]  # txt where nothing is asked for


@pytest.mark.parametrize("given", ["srt,docx", "docx", "", ","])
def test_a_format_that_is_none_is_wrong_usage(given: str) -> None:
    result = transcribe("missing.wav", "-f", given)
    assert result.exit_code == 2 and "--output-format" in result.stderr and "txt, vtt, srt, tsv, json" in result.stderr


@pytest.mark.parametrize("name", ["auto", "AUTO"])
def test_language_auto_detects(silence: Path, multilingual_path: Path, name: str) -> None:
    detected, given = (
        report_of(silence, "-m", multilingual_path, "--drop-silence", "False", "--language", language)
        for language in (name, "de")
    )
    assert detected["options"]["language"] is None and given["options"]["language"] == "de"
    assert detected["language_probability"] < 1.0


@pytest.mark.parametrize(("given", "said"), [(["--fp16", "False"], "--fp16 False"), (["--fp16"], "--fp16 True")])
def test_fp16_is_taken_and_says_that_it_changes_nothing(silence: Path, given: list[str], said: str) -> None:
    result = transcribe(silence, *given)
    assert result.exit_code == 0
    assert f"whisperq-edge: {said} changes nothing here: --compute-type chooses" in result.stderr
    assert "--fp16" not in transcribe(silence).stderr
