"""What the commands say on stderr, and the exit codes that go with it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from whisperq_edge import CpuError, IsaNotSupportedError, OptionError, UnknownIsaError
from whisperq_edge._system.self_test import SelfTestWarning
from whisperq_edge.cli import exit_code, main
from whisperq_edge.cli.info import info_command
from whisperq_edge.cli.messages import in_words_of, reason
from whisperq_edge.cli.transcribe import transcribe_command

from tests.support.cli_runner import cli_runner

LOG = logging.getLogger("whisperq_edge")


def raised_by_info(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(info_command, "callback", fail)
    return cli_runner().invoke(main, ["info"])


@pytest.mark.parametrize(
    ("error", "says", "code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "memory ran out", 1),
        (OSError(), "OSError", 1),
        (FileNotFoundError(2, "No such file or directory", "talk.wav"), "talk.wav: No such file or directory", 1),
        (UnknownIsaError("WHISPERQ_ISA is 'foo'"), "WHISPERQ_ISA is 'foo'", 2),
    ],
)
def test_an_error_is_a_sentence(monkeypatch: pytest.MonkeyPatch, error: BaseException, says: str, code: int) -> None:
    result = raised_by_info(monkeypatch, error)
    assert (result.stderr, result.exit_code) == (f"whisperq-edge: {says}\n", code)


def test_a_cpu_that_cannot_do_what_was_asked_for_is_wrong_usage() -> None:
    assert exit_code(CpuError("")) == exit_code(IsaNotSupportedError("")) == 2


def test_two_names_in_an_error_of_the_system_are_both_said() -> None:
    assert "'a' -> 'b'" in reason(OSError(18, "Invalid cross-device link", "a", None, "b"))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OptionError("cpu_threads", -1, "0 (automatic) to 512"), "--threads -1 is not possible: 0 (automatic) to 512"),
        (OptionError("timeout_s", 0.0, "seconds above 0, or None"), "--timeout 0 is not possible: seconds above 0"),
        (OptionError("log_prob_threshold", "x y", "a"), "--logprob-threshold 'x y' is not possible: a"),
        (
            OptionError("vad_filter", True, "not together with clip_timestamps: both choose a task"),
            "--vad-filter is not possible: not together with --clip-timestamps: both choose a task",
        ),
        (
            OptionError("hotwords", "a", "whisper.cpp has none; use initial_prompt with carry_initial_prompt=True"),
            "--hotwords a is not possible: whisper.cpp has none; use --initial-prompt with --carry-initial-prompt True",
        ),
        (OptionError("device_index", 3, "0 with beam_size=1"), "device_index=3 is not possible: 0 with beam_size=1"),
    ],
)
def test_options_are_called_as_they_are_written(error: OptionError, says: str) -> None:
    assert in_words_of(transcribe_command, error) == says


def test_options_of_subcommands_too() -> None:
    cache = main.get_command(click.Context(main), "cache")
    assert isinstance(cache, click.Group)
    assert in_words_of(cache, OptionError("older_than", "x", "30d")) == "--older-than x is not possible: 30d"


@pytest.mark.parametrize("arguments", [["--threads", "-1"], ["--timeout", "0"], ["--timeout", "nan"]])
def test_options_of_the_call_too(sample_path: Path, arguments: list[str]) -> None:
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", *arguments, str(sample_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"whisperq-edge: {' '.join(arguments)} is not possible: ")
    assert "_" not in result.stderr and "None" not in result.stderr


def test_warnings_are_told_once_and_notes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(**_: Any) -> None:
        LOG.info("a note")
        LOG.warning("a.flac is %s", "damaged\nor cut off")
        LOG.warning("kernels")
        warnings.warn("kernels", SelfTestWarning, stacklevel=1)

    monkeypatch.setattr(info_command, "callback", warn)
    for _ in range(2):  # what the first one added to the logger is gone
        with warnings.catch_warnings(record=True) as left:
            warnings.simplefilter("always")
            result = cli_runner().invoke(main, ["info"])
        assert result.stderr == "whisperq-edge: a.flac is damaged or cut off\nwhisperq-edge: kernels\n"
        assert left == []


@pytest.mark.parametrize("as_json", [False, True])
def test_audio_that_is_cut_off_is_told(sample_path: Path, tmp_path: Path, as_json: bool) -> None:
    """It is transcribed as far as it goes, and the exit status says that this is not all."""
    cut = tmp_path / "cut.flac"
    cut.write_bytes(sample_path.read_bytes()[:60_000])
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", str(cut), *(["--json"] if as_json else [])])
    assert result.exit_code == 1 and result.stdout.strip()
    [line] = result.stderr.splitlines()
    assert line.startswith(f"whisperq-edge: {cut} is damaged or cut off: what was decoded ends after ")
    if as_json:
        report, sentence = json.loads(result.stdout), line.removeprefix("whisperq-edge: ")
        [transcript] = report["transcripts"]
        assert transcript["text"] and transcript["damage"] == [sentence] and not transcript["partial"]
        assert report["failures"] == [{"file": str(cut), "error": "AudioError", "message": sentence}]


def test_one_file_that_is_cut_off_is_delivered_beside_whole_ones(sample_path: Path, tmp_path: Path) -> None:
    cut, out = tmp_path / "cut.flac", tmp_path / "out"
    cut.write_bytes(sample_path.read_bytes()[:60_000])
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", str(cut), str(sample_path), "-o", str(out)])
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1
    assert all((out / name).read_text(encoding="utf-8").strip() for name in ("cut.txt", "sample.txt"))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_header_without_a_length_is_no_damage(sample_pcm: Any, tmp_path: Path, size: int) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "streamed.wav"
    soundfile.write(path, sample_pcm, 16_000)
    content = path.read_bytes()
    place = content.index(b"data") + 4
    path.write_bytes(content[:place] + size.to_bytes(4, "little") + content[place + 4 :])
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", str(path), "--json"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["transcripts"][0]["damage"] == []


def test_stdin_that_is_closed_is_a_sentence() -> None:
    program = "import sys; sys.stdin = None; from whisperq_edge.cli import main; main()"
    command = [sys.executable, "-c", program, "transcribe", "-", "-m", "nano"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "whisperq-edge: -: stdin is closed: give it audio, or the name of a file\n"


def test_stderr_that_is_closed_ends_nothing(sample_path: Path) -> None:
    program = "import sys; sys.stderr = None; from whisperq_edge.cli import main; main()"
    command = [sys.executable, "-c", program, "transcribe", str(sample_path), "-m", "nano", "--beam-size", "1"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0 and run.stdout.strip()
