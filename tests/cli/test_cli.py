"""The commands as users call them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from click.testing import Result
from whisperq_edge import __version__
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.processes import start_interruptible


def run(*arguments: object, stdin: bytes = b"") -> Result:
    return cli_runner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def transcribe(*arguments: object, stdin: bytes = b"") -> Result:
    quick = ("--beam_size", "1", "--temperature_increment_on_fallback", "0")
    return run("transcribe", "--model", "nano", "--device", "cpu", *quick, *arguments, stdin=stdin)


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0 and __version__ in result.stdout


@pytest.mark.parametrize("command", [(), ("transcribe",), ("inspect",), ("info",)])
def test_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0 and "Usage:" in result.stdout


def test_text_on_stdout_and_timings_on_stderr(sample_path: Path, sample_text: str) -> None:
    result = transcribe(sample_path, "--timings")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == sample_text.split()
    for label in ("Load", "Mel", "Sample", "Encode", "Decode", "Batchd", "Prompt", "Total"):
        assert label in result.stderr


def test_stdin(sample_path: Path, sample_text: str) -> None:
    result = transcribe("-", stdin=sample_path.read_bytes())
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == sample_text.split()


@pytest.mark.parametrize("spelling", ["--word_timestamps", "--word-timestamps"])
def test_switches_stand_alone_or_with_a_value(sample_path: Path, spelling: str) -> None:
    for value in ([], ["True"]):
        result = transcribe(spelling, *value, sample_path, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["transcripts"][0]["segments"][0]["words"]
    result = transcribe(spelling, "False", sample_path, "--json")
    assert "words" not in json.loads(result.stdout)["transcripts"][0]["segments"][0]


def test_json(sample_path: Path, sample_text: str) -> None:
    result = transcribe(sample_path, "--json")
    report = json.loads(result.stdout)
    [transcript] = report["transcripts"]
    assert transcript["text"].split() == sample_text.split()
    assert transcript["file"] == str(sample_path) and transcript["options"]["beam_size"] == 1
    assert transcript["timings"]["encode"]["runs"] == 1
    assert report["failures"] == [] and report["timings"]["load"]["ms"] > 0


def test_files_in_every_format(sample_path: Path, tmp_path: Path) -> None:
    result = transcribe(sample_path, "--output_dir", tmp_path / "out", "--output_format", "all")
    assert result.exit_code == 0 and result.stdout == ""
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["sample.json", "sample.srt", "sample.tsv", "sample.txt", "sample.vtt"]
    assert (tmp_path / "out" / "sample.vtt").read_text(encoding="utf-8").startswith("WEBVTT\n")


def test_one_failing_file_does_not_stop_the_rest(sample_path: Path, sample_text: str, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"this is no audio at all")
    result = transcribe(tmp_path / "noise.wav", tmp_path / "missing.wav", sample_path)
    assert result.exit_code == 1
    assert result.stdout.split() == sample_text.split()
    assert "noise.wav" in result.stderr and "missing.wav" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--length_penalty", "2"], ["--language", "klingon"], ["--hallucination_silence_threshold", "2"]]
)
def test_wrong_options_are_usage_errors(sample_path: Path, arguments: list[str]) -> None:
    result = transcribe(sample_path, *arguments)
    assert result.exit_code == 2 and result.stderr.startswith("whisperq-edge: ")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--beam-size", "2000"], "--beam-size 2000"),
        (["--patience", "0.01", "--beam-size", "5"], "--patience 0.01"),
        (["--best-of", "3000", "--temperature", "0.5"], "--best-of 3000"),
        (["--suppress-tokens", "-2"], "--suppress-tokens -2"),
        (["--temperature", "nan", "--temperature-increment-on-fallback", "0.2"], "--temperature nan"),
        (["--temperature-increment-on-fallback", "1e-9"], "--temperature-increment-on-fallback 1e-09"),
        (["--temperature-increment-on-fallback", "nan"], "--temperature-increment-on-fallback nan"),
        (["--temperature-increment-on-fallback", "inf"], "--temperature-increment-on-fallback inf"),
    ],
)
def test_a_wrong_option_is_one_sentence_whatever_the_files(arguments: list[str], option: str, tmp_path: Path) -> None:
    """It is about the command, not about a file: none is opened."""
    result = transcribe(tmp_path / "missing.wav", tmp_path / "missing-too.wav", *arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"whisperq-edge: {option} is not possible: ")


def test_a_type_of_ctranslate2_is_int8_and_the_command_says_so(sample_path: Path) -> None:
    result = transcribe(sample_path, "--compute-type", "int8_float16", "--json")
    assert result.exit_code == 0 and "-q8_0-" in json.loads(result.stdout)["transcripts"][0]["model"]
    assert result.stderr.startswith("whisperq-edge: compute_type=int8_float16 is taken as q8_0: ")


def test_wrong_models_exit_with_3(sample_path: Path, tmp_path: Path) -> None:
    assert run("transcribe", "--model", "absent.bin", sample_path).exit_code == 3
    (tmp_path / "model.bin").write_bytes(b"GGUF" + bytes(100))
    result = run("transcribe", "--model", tmp_path / "model.bin", sample_path)
    assert result.exit_code == 3 and "GGUF" in result.stderr
    assert run("inspect", tmp_path / "model.bin").exit_code == 3


def test_info_json() -> None:
    report = json.loads(run("info", "--json").stdout)
    assert report["version"] == __version__
    assert report["engines"]["ggml"]["usable"] is True
    assert set(report["engines"]["ggml"]["built_for"]) <= set(report["cpu"]["features_found"])
    assert report["cpu"]["threads"] >= 1


def test_info_names_the_kernels_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPERQ_ISA", "scalar")
    edge = json.loads(run("info", "--json").stdout)["engines"]["edge"]
    assert edge["isa"] == "scalar" and edge["isas_built"][0] == "scalar"
    assert set(edge["isas_supported"]) <= set(edge["isas_built"])
    monkeypatch.setenv("WHISPERQ_ISA", "mmx")
    wrong = run("info", "--json")
    assert wrong.exit_code == 2 and "mmx" in wrong.stderr and "scalar" in wrong.stderr


def test_info_text_names_features_and_engine() -> None:
    text = run("info").stdout
    assert "Features found" in text and "whisper.cpp" in text


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_prints_what_was_heard(sample_path: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    samples, rate = soundfile.read(sample_path, dtype="int16")
    long = tmp_path / "long.wav"
    with soundfile.SoundFile(long, "w", rate, 1) as file:
        for _ in range(40):
            file.write(samples)
    command = [sys.executable, "-c", "from whisperq_edge.cli import main; main()", "transcribe", str(long)]
    quick = ["--model", "nano", "--beam-size", "1", "--temperature-increment-on-fallback", "0", "--verbose", "true"]
    with start_interruptible([*command, *quick]) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("[00:")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert out.strip() and "interrupted" in err
