"""``whisperq-edge inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from whisperq_edge._errors import ModelFormatError
from whisperq_edge._whisper.languages import LANGUAGES
from whisperq_edge.cli.inspect import inspect_command

from tests.support.cli_runner import cli_runner
from tests.support.make_model import PRESETS, write_random_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("inspect") / "tiny.bin", "tiny", "q8_0")


def test_json(tiny: Path) -> None:
    result = cli_runner().invoke(inspect_command, [str(tiny), "--json"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["shape_of"] == "tiny"
    assert report["ftype"] == "q8_0"
    assert report["dims"] == PRESETS["tiny"]._asdict()
    assert report["languages"] == list(LANGUAGES)[:99]
    assert report["file_bytes"] == tiny.stat().st_size
    assert len(report["tensors"]) == sum(row["tensors"] for row in report["types"].values()) == 167
    assert report["parameters"] == sum(row["parameters"] for row in report["types"].values())
    assert report["types"]["q8_0"]["bytes"] == sum(t["bytes"] for t in report["tensors"] if t["type"] == "q8_0")


def test_plain_text_in_a_pipe(tiny: Path) -> None:
    lines = cli_runner().invoke(inspect_command, [str(tiny)], catch_exceptions=False).stdout.splitlines()
    assert lines[0].split() == ["file", str(tiny)]
    cells = [line.split() for line in lines]
    assert ["n_audio_state", "384"] in cells
    n_bytes = str(51865 * 12 * 34)  # rows of 12 blocks of 34 bytes
    assert ["decoder.token_embedding.weight", "q8_0", "384", "x", "51865", n_bytes] in cells


@pytest.mark.parametrize(("preset", "shape"), [("micro.en", None), ("base.en", "base.en")])
def test_shape_of(preset: str, shape: object, tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "model.bin", preset, "q4_0")
    result = cli_runner().invoke(inspect_command, [str(path), "--json"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["shape_of"] == shape
    assert report["languages"] == ["en"]


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"GGUF")
    with pytest.raises(ModelFormatError, match="GGUF"):
        cli_runner().invoke(inspect_command, [str(tmp_path / "model.bin")], catch_exceptions=False)


def test_languages_are_a_hundred() -> None:
    assert len(LANGUAGES) == 100
    assert list(LANGUAGES)[::33] == ["en", "bg", "yo", "yue"]
