"""From a name, a path or a hub id and a ``compute_type`` to the file that is opened."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge import (
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    OptionError,
    UnsupportedModelError,
    WhisperModel,
)
from whisperq_edge._convert import convert as converter
from whisperq_edge._core import read_model_file
from whisperq_edge._store import locate, snapshots
from whisperq_edge._store.cache import list_cache
from whisperq_edge._store.catalog import resolve_model
from whisperq_edge._store.locate import locate_model
from whisperq_edge._store.published import PublishedFile
from whisperq_edge.cli import main
from whisperq_edge.compat import faster_whisper

from tests.support.cli_runner import cli_runner
from tests.support.make_model import write_random_model

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in every format: micro-TYPE.bin, micro.pt and the folder whisper-micro."""
    folder = tmp_path_factory.mktemp("models")
    for type in ("f32", "f16", "q8_0", "q5_0", "q4_0"):
        write_random_model(folder / f"micro-{type}.bin", "micro.en", type)
    source = folder / "micro-f16.bin"
    converter.convert_model(source, folder / "micro.pt", to="openai", type="f32", proof="tensors")
    converter.convert_model(source, folder / "whisper-micro", to="safetensors", type="f32", proof="tensors")
    return folder


class _Hub:
    """Stands in for the hub: knows one repository and notes what it was asked for."""

    def __init__(self, repository: str, folder: Path) -> None:
        self.repository = repository
        self.folder = folder
        self.asked: list[tuple[str, Any, bool]] = []

    def download_model(
        self, repo_id: str, *, revision: Any = None, cache_dir: Any = None, local_files_only: bool = False
    ) -> Path:
        self.asked.append((repo_id, cache_dir, local_files_only))
        if repo_id != self.repository or local_files_only:
            raise ModelNotFoundError(f"{repo_id} cannot be had from this hub")
        return self.folder


@pytest.fixture
def base_en(models: Path, monkeypatch: pytest.MonkeyPatch) -> _Hub:
    """A hub that has openai/whisper-base.en (of other dimensions, which nobody minds)."""
    stand_in = _Hub("openai/whisper-base.en", models / "whisper-micro")
    monkeypatch.setattr(snapshots, "download_model", stand_in.download_model)
    return stand_in


@pytest.fixture
def fetched(models: Path, base_en: _Hub, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that has the published files of base.en, too, and notes which of them it was asked for."""
    asked: list[str] = []

    def fetched_model(file: PublishedFile, remote: Any, folder: Any = None, on_progress: Any = None) -> Path:
        asked.append(file.name)
        return models / f"micro-{file.type}.bin"

    monkeypatch.setattr(locate, "fetched_model", fetched_model)
    return asked


@pytest.fixture
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"converts {arguments}")

    monkeypatch.setattr(converter, "convert_model", refuse)


def ftype(path: Path) -> str:
    return str(read_model_file(path).ftype)


# ---- Files of ggml ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute_type", ["default", "auto", "f16", "float16", "F16"])
def test_a_file_of_the_wanted_type_is_taken_as_it_is(models: Path, folder: Path, compute_type: str) -> None:
    path = models / "micro-f16.bin"
    assert locate_model(path, compute_type) == path
    assert locate_model(str(path), compute_type) == path
    assert not folder.exists()


@pytest.mark.parametrize(
    ("compute_type", "type"),
    [("int8", "q8_0"), ("q8", "q8_0"), ("int5", "q5_0"), ("int4", "q4_0"), ("q5_1", "q5_1"), ("iq4_nl", "iq4_nl")],
)
def test_whisper_model_quantises_once(models: Path, folder: Path, compute_type: str, type: str) -> None:
    with WhisperModel(models / "micro-f16.bin", compute_type=compute_type, device="cpu") as model:
        assert model.compute_type == type and model.model_path.parent == folder
        transcript = model.transcribe(np.zeros(16000, np.float32), beam_size=1, temperature=0.0, max_new_tokens=1)
        assert transcript.model == str(model.model_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with WhisperModel(models / "micro-f16.bin", compute_type=compute_type, device="cpu") as again:
        assert again.model_path == model.model_path
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("given", "type"),
    [
        ("int8_float32", "q8_0"),
        ("int8_float16", "q8_0"),
        ("INT8_BFLOAT16", "q8_0"),
        ("int16", "f16"),
        ("bfloat16", "f16"),
    ],
)
@pytest.mark.parametrize("field", ["compute_type", "WHISPERQ_COMPUTE_TYPE", "WL_COMPUTE_TYPE"])
def test_types_of_ctranslate2_are_the_nearest_of_ours_with_a_note(
    models: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    given: str,
    type: str,
    field: str,
) -> None:
    if field != "compute_type":
        monkeypatch.setenv(field, given)
    with caplog.at_level("WARNING", "whisperq_edge"):
        path = locate_model(models / "micro-f16.bin", given if field == "compute_type" else "default")
    assert ftype(path) == type
    [note] = [record.getMessage() for record in caplog.records]
    assert note.startswith(f"{field}={given} is taken as {type}: ")


def test_the_bundled_model_quantises_too(folder: Path) -> None:
    path = locate_model("nano", "int4")
    assert ftype(path) == "q4_0" and path.name.startswith("ggml-nano.en-q4_0-")
    [entry] = list_cache()
    assert entry.model == "nano.en" and entry.path == path


def test_a_type_that_does_not_fit_is_the_next_larger(models: Path, folder: Path) -> None:
    """Rows of 64 values are no blocks of 256."""
    assert ftype(locate_model(models / "micro-f16.bin", "q4_k")) == "q4_1"
    assert locate_model(models / "micro-q8_0.bin", "q6_k") == models / "micro-q8_0.bin"
    assert len(list_cache()) == 1


def test_f32_files_run_in_another_type(models: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="compute_type"):
        WhisperModel(models / "micro-f32.bin", device="cpu", engine="ggml")
    with WhisperModel(models / "micro-f32.bin", compute_type="f16", device="cpu", engine="ggml") as model:
        assert model.compute_type == "f16"


@pytest.mark.parametrize(
    ("held", "wanted"),
    [("f16", "float32"), ("q5_0", "f16"), ("q5_0", "int8"), ("q4_0", "q5_0"), ("q4_0", "iq4_nl"), ("q8_0", "f16")],
)
def test_a_type_that_gains_nothing_is_refused(models: Path, folder: Path, held: str, wanted: str) -> None:
    with pytest.raises(OptionError, match=held) as caught:
        WhisperModel(models / f"micro-{held}.bin", compute_type=wanted, device="cpu")
    assert caught.value.field == "compute_type" and caught.value.value == wanted
    assert not folder.exists()


def test_quantising_again_is_done_with_a_warning(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="whisperq_edge"):
        assert ftype(locate_model(models / "micro-f16.bin", "q8_0")) == "q8_0"
        assert caplog.records == []
        assert ftype(locate_model(models / "micro-q8_0.bin", "q4_0")) == "q4_0"
    [record] = caplog.records
    assert "micro-q8_0.bin is quantised already (q8_0)" in record.getMessage()


def test_a_file_of_mixed_types_may_become_smaller(models: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.bin"
    patterns = ["decoder=q5_0"]
    converter.convert_model(models / "micro-f16.bin", mixed, type="q8_0", tensor_types=patterns, proof="tensors")
    assert ftype(mixed) == "mixed" and locate_model(mixed) == mixed
    assert ftype(locate_model(mixed, "q4_0")) == "q4_0"
    with pytest.raises(OptionError, match="mixed"):
        locate_model(mixed, "q8_0")


def test_a_damaged_file_is_named(models: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.bin").write_bytes((models / "micro-f16.bin").read_bytes()[:-1])
    with pytest.raises(ModelFormatError):
        WhisperModel(tmp_path / "cut.bin", compute_type="int8", device="cpu")
    assert not folder.exists()


# ---- What the environment says ---------------------------------------------------------------------------------------


def test_the_environment_chooses_the_default(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = models / "micro-f16.bin"
    monkeypatch.setenv("WL_COMPUTE_TYPE", "int4")
    assert ftype(locate_model(path)) == "q4_0"
    monkeypatch.setenv("WHISPERQ_COMPUTE_TYPE", "int8")
    assert ftype(locate_model(path, "auto")) == "q8_0"
    assert ftype(locate_model(path, "q5_0")) == "q5_0"  # what is asked for counts more
    monkeypatch.setenv("WHISPERQ_COMPUTE_TYPE", "auto")
    assert ftype(locate_model(path)) == "q4_0"  # says nothing, so that the alias is heard
    monkeypatch.setenv("WL_COMPUTE_TYPE", "")
    assert locate_model(path) == path


def test_a_wrong_variable_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WL_COMPUTE_TYPE", "int3")
    with pytest.raises(OptionError) as caught:
        locate_model(models / "micro-f16.bin")
    assert (caught.value.field, caught.value.value) == ("WL_COMPUTE_TYPE", "int3")


def test_the_environment_gives_way_to_a_smaller_file(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WHISPERQ_COMPUTE_TYPE", "int8")
    with caplog.at_level(logging.INFO, logger="whisperq_edge"):
        assert locate_model(models / "micro-q5_0.bin") == models / "micro-q5_0.bin"
    assert "WHISPERQ_COMPUTE_TYPE=int8 gains nothing" in caplog.text


# ---- Other formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["micro.pt", "whisper-micro"])
def test_other_formats_are_converted_once(models: Path, folder: Path, name: str, request: Any) -> None:
    with WhisperModel(models / name, device="cpu") as model:
        assert model.compute_type == "f16" and model.model_path.parent == folder
        assert model.model_path.name.startswith("ggml-micro-f16-")
    quantised = locate_model(models / name, "int5")
    assert ftype(quantised) == "q5_0"
    request.getfixturevalue("no_conversion")
    assert locate_model(models / name) == model.model_path and locate_model(models / name, "q5") == quantised


def test_all_formats_give_the_same_weights(models: Path) -> None:
    paths = [locate_model(models / name, "q8_0") for name in ("micro-f16.bin", "micro.pt", "whisper-micro")]
    files = [read_model_file(path) for path in paths]

    def weights(index: int) -> dict[str, bytes]:
        data = paths[index].read_bytes()
        return {t.name: data[t.offset : t.offset + t.n_bytes] for t in files[index].tensors}

    assert weights(0) == weights(1) == weights(2)


def test_a_ggml_file_of_another_suffix_is_none_to_convert(models: Path, tmp_path: Path, no_conversion: None) -> None:
    shutil.copy(models / "micro-f16.bin", tmp_path / "micro.pt")
    assert locate_model(tmp_path / "micro.pt") == tmp_path / "micro.pt"


def test_f32_is_not_made(models: Path, base_en: _Hub) -> None:
    for name in (models / "micro.pt", models / "whisper-micro", "base.en", "openai/whisper-base.en"):
        with pytest.raises(OptionError, match=r"whisper\.cpp") as caught:
            locate_model(name, "float32")
        assert caught.value.value == "float32"
    assert base_en.asked == []


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        locate_model(tmp_path)


# ---- Names -----------------------------------------------------------------------------------------------------------


def test_a_published_name_is_its_published_file(models: Path, fetched: list[str], base_en: _Hub) -> None:
    """test_fetch.py shows how it is fetched."""
    for compute_type in ("default", "auto", "int8"):
        assert locate_model("base.en", compute_type) == models / "micro-q8_0.bin"
    assert fetched == ["ggml-base.en-q8_0.bin"] * 3 and base_en.asked == []


def test_the_environment_chooses_the_type_of_a_name(
    models: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHISPERQ_COMPUTE_TYPE", "float16")
    assert ftype(locate_model("base.en")) == "f16" and fetched == []


def test_a_published_name_in_float_is_fetched_and_converted_once(base_en: _Hub, folder: Path) -> None:
    path = locate_model("base.en", "f16")
    assert ftype(path) == "f16" and path.name.startswith("ggml-base.en-f16-")
    assert base_en.asked == [("openai/whisper-base.en", None, False)]
    assert locate_model("base.en", "f16") == locate_model("openai/whisper-base.en") == path
    assert locate_model("base.en", "float16", local_files_only=True) == path
    quantised = locate_model("base.en", "int8", local_files_only=True)  # made from the f16 one
    assert ftype(quantised) == "q8_0" and locate_model("base.en", "int8") == locate_model("base.en") == quantised
    assert len(base_en.asked) == 1
    assert {(entry.model, entry.kind) for entry in list_cache()} == {("base.en", "f16"), ("base.en", "q8_0")}


def test_a_published_name_in_the_type_that_was_asked_for(base_en: _Hub) -> None:
    assert ftype(locate_model("base.en", "int4")) == "q4_0"
    assert [entry.kind for entry in list_cache()] == ["q4_0"]


def test_models_says_what_is_here(base_en: _Hub) -> None:
    locate_model("openai/whisper-base.en", "int8")
    lines = cli_runner().invoke(main, ["models"]).stdout.splitlines()
    [row] = [line.split() for line in lines if line.startswith("base.en ")]
    assert row[-2:] == ["q8_0", "openai/whisper-base.en"]


def test_a_damaged_entry_is_made_again_from_the_hub(base_en: _Hub) -> None:
    path = locate_model("base.en", "q4_0")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert locate_model("base.en", "q4_0") == path and path.read_bytes() == whole
    assert len(base_en.asked) == 2


def test_the_hub_is_told_where_to_put_it_and_when_not_to_fetch(base_en: _Hub, tmp_path: Path) -> None:
    root = str(tmp_path / "hub")
    for model_class in (WhisperModel, faster_whisper.WhisperModel):
        with pytest.raises(ModelNotFoundError):
            model_class("base", device="cpu", compute_type="f16", download_root=root, local_files_only=True)
    assert base_en.asked == 2 * [("openai/whisper-base", root, True)]


def test_what_is_not_here_is_named(base_en: _Hub, folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'base\.en' in q4_0 or f16.*this hub") as caught:
        WhisperModel("base.en", compute_type="int4", local_files_only=True)
    assert str(folder) in str(caught.value)
    assert base_en.asked == [("openai/whisper-base.en", None, True)]
    with pytest.raises(ModelNotFoundError, match="somebody/fine-tune"):
        WhisperModel("somebody/fine-tune")


def test_a_type_is_named_once(base_en: _Hub) -> None:
    with pytest.raises(ModelNotFoundError, match=r"'base\.en' in f16, and"):
        locate_model("base.en", "f16", local_files_only=True)


@pytest.mark.parametrize("model", ["", "  ", None, 5, b"nano", "a\0b"])
def test_what_can_be_no_model(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path would be the current folder."""
    monkeypatch.chdir(tmp_path)
    for open_model in (WhisperModel, faster_whisper.WhisperModel):
        with pytest.raises(OptionError, match="the name of a model") as caught:
            open_model(model)
        assert caught.value.field == "model_size_or_path"


def test_a_user_who_does_not_exist(base_en: _Hub) -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-user"):
        locate_model("~no-such-user/ggml.bin")


def test_any_hub_id(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = _Hub("somebody/whisper-fine", models / "whisper-micro")
    monkeypatch.setattr(snapshots, "download_model", stand_in.download_model)
    path = locate_model("somebody/whisper-fine", "int8")
    assert path.name.startswith("ggml-fine-q8_0-") and ftype(path) == "q8_0"
    assert locate_model("somebody/whisper-fine", "int8") == path and len(stand_in.asked) == 1


@pytest.mark.parametrize("name", ["no-such-model.bin", "models/ggml-base.en.bin", "./base.en", "basement", "~/x/y"])
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(name: str, base_en: _Hub) -> None:
    with pytest.raises(ModelNotFoundError, match=r"tiny\.en.*turbo"):
        locate_model(name)
    assert base_en.asked == []


def test_a_path_counts_more_than_a_name_unless_no_model_is_there(
    models: Path, fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.en").mkdir()
    assert locate_model("base.en") == models / "micro-q8_0.bin" and len(fetched) == 1
    shutil.rmtree(tmp_path / "base.en")
    shutil.copytree(models / "whisper-micro", tmp_path / "base.en")
    assert locate_model("base.en", "q5_1") and len(fetched) == 1


def test_bundled_names_count_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    assert locate_model("nano") == resolve_model("nano")


# ---- The command line ------------------------------------------------------------------------------------------------


def test_transcribe_takes_a_compute_type(sample_path: Path, sample_text: str, folder: Path) -> None:
    quick = ["--beam-size", "1", "--temperature-increment-on-fallback", "0", "--device", "cpu"]
    arguments = ["transcribe", "--model", "nano", "--compute-type", "int8", *quick, str(sample_path)]
    result = cli_runner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == sample_text.split()
    assert [(entry.model, entry.kind) for entry in list_cache()] == [("nano.en", "q8_0")]


def test_transcribe_names_a_wrong_type_and_a_missing_model(sample_path: Path) -> None:
    result = cli_runner().invoke(main, ["transcribe", "-m", "nano", "--compute-type", "int3", str(sample_path)])
    assert result.exit_code == 2 and "int3" in result.stderr and "q5_0" in result.stderr
    result = cli_runner().invoke(main, ["transcribe", "-m", "basement", str(sample_path)])
    assert result.exit_code == 3 and "basement" in result.stderr
