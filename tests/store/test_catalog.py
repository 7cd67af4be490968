"""Names, aliases, types and sizes of the published models, and ``whisperq-edge models``."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
from whisperq_edge import ModelNotFoundError, OptionError, WhisperModel
from whisperq_edge._core import read_model_file
from whisperq_edge._store.catalog import (
    ALIASES,
    BUNDLED_MODELS,
    MODELS,
    file_bytes,
    find_model,
    hub_id,
    memory_bytes,
    resolve_model,
    shape_of,
)
from whisperq_edge._whisper.dims import Dims
from whisperq_edge._whisper.types import TYPE_ALIASES, TYPES, fitting_type, resolve_type
from whisperq_edge._whisper.vocabulary import known_vocabulary
from whisperq_edge.cli import main

from tests.support.cli_runner import cli_runner
from tests.support.make_model import PRESETS, tensor_shapes, write_random_model
from tests.support.paths import ROOT

TENSOR_TYPES_H = ROOT / "csrc" / "model" / "tensor_types.h"

NAMES = [
    *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en", "nano", "nano.en"),
    *("large-v1", "large-v2", "large-v3", "large", "large-v3-turbo", "turbo"),
    *("distil-small.en", "distil-medium.en", "distil-large-v2", "distil-large-v3", "distil-large-v3.5"),
]


# ---- Types -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not TENSOR_TYPES_H.is_file(), reason="the sources are not here")
def test_the_types_are_those_of_the_reader() -> None:
    rows = re.findall(r'\{"(\w+)", (\d+), (\d+), (\d+), (\d+)\}', TENSOR_TYPES_H.read_text(encoding="utf-8"))
    assert len(rows) == 13
    ours = {(t.name, t.ggml_id, t.ftype, t.block_size, t.block_bytes) for t in TYPES.values()}
    assert ours == {(name, *map(int, numbers)) for name, *numbers in rows}
    assert all(name == type.name for name, type in TYPES.items())


def test_bits_per_value() -> None:
    bits = {name: type.bits_per_value for name, type in TYPES.items()}
    assert bits["f16"] == 16 and bits["q8_0"] == 8.5 and bits["q5_0"] == 5.5 and bits["q4_k"] == bits["q4_0"] == 4.5
    assert [name for name, type in TYPES.items() if not type.is_quantized] == ["f32", "f16"]


@pytest.mark.parametrize(
    ("given", "name"),
    [*((name, name) for name in TYPES), *TYPE_ALIASES.items(), ("Q5_K", "q5_k"), ("INT8", "q8_0")],
)
def test_names_of_types(given: str, name: str) -> None:
    assert resolve_type(given) == name


@pytest.mark.parametrize("given", ["", "int3", "bf16", 8, None])
def test_other_names_of_types_are_refused_with_the_choices(given: object) -> None:
    with pytest.raises(OptionError, match=r"q5_0.*iq4_nl.*int8") as caught:
        resolve_type(given, "compute_type")  # type: ignore[arg-type]
    assert caught.value.field == "compute_type" and caught.value.value == given


@pytest.mark.parametrize(
    ("wanted", "row_size", "taken"),
    [
        ("q4_k", 512, "q4_k"),
        ("q4_k", 384, "q4_1"),
        ("q6_k", 384, "q8_0"),
        ("q2_k", 64, "q4_0"),
        ("q5_0", 48, "f16"),
        ("f16", 1, "f16"),
    ],
)
def test_a_type_that_does_not_fit_is_the_next_larger(wanted: str, row_size: int, taken: str) -> None:
    assert fitting_type(wanted, row_size) == taken


# ---- Names -----------------------------------------------------------------------------------------------------------


def test_every_name_that_people_know() -> None:
    assert sorted([*MODELS, *ALIASES]) == sorted(NAMES)
    for name in NAMES:
        model = find_model(name)
        assert model is not None and model.name == ALIASES.get(name, name)
        assert (hub_id(name) is None) == (name in BUNDLED_MODELS)
    assert hub_id("large") == hub_id("large-v3") == "openai/whisper-large-v3"
    assert hub_id("turbo") == "openai/whisper-large-v3-turbo"
    assert hub_id("large-v1") == "openai/whisper-large"  # the hub's name of the first one
    assert hub_id("distil-large-v3.5") == "distil-whisper/distil-large-v3.5"
    ids = [model.hub_id for model in MODELS.values() if model.hub_id]
    assert len(set(ids)) == len(ids) == len(MODELS) - 1


def test_a_hub_id_is_a_name_too() -> None:
    model = find_model("openai/whisper-base.en")
    assert model is not None and model.name == "base.en"
    assert find_model("somebody/whisper-base.en") is None and hub_id("no-such-model") is None


@pytest.mark.parametrize("preset", sorted(set(PRESETS) & set(MODELS)))
def test_dimensions_and_parameters(preset: str) -> None:
    model = MODELS[preset]
    assert tuple(model.dims) == tuple(PRESETS[preset])
    assert model.n_parameters == sum(math.prod(shape) for _, shape in tensor_shapes(PRESETS[preset]))


def test_languages() -> None:
    assert {name: model.n_languages for name, model in MODELS.items() if not model.is_multilingual} == {
        name: 1 for name in MODELS if name.endswith(".en")
    }
    assert MODELS["tiny"].n_languages == MODELS["large-v2"].n_languages == 99
    assert MODELS["large-v3"].n_languages == MODELS["large-v3-turbo"].n_languages == 100


def test_shape_of() -> None:
    assert shape_of(MODELS["base"].dims._asdict()) == "base"
    assert shape_of(MODELS["large-v2"].dims._asdict()) == "large-v1 or large-v2"
    assert shape_of(MODELS["distil-large-v3"].dims._asdict()) == "distil-large-v3 or distil-large-v3.5"
    assert shape_of({**MODELS["base"].dims._asdict(), "n_text_layer": 5}) is None
    assert shape_of(read_model_file(resolve_model("nano")).hparams) == "nano.en"


def test_resolve_model_takes_bundled_names_and_paths_only(tmp_path: Path) -> None:
    assert resolve_model("nano") == resolve_model("nano.en")
    path = tmp_path / "model.bin"
    path.touch()
    assert resolve_model(path) == path
    with pytest.raises(ModelNotFoundError, match=r"base\.en"):
        resolve_model("base.en")


# ---- Sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type", "mib"), [("f16", 141.11), ("q8_0", 77.99), ("q5_0", 52.75), ("q4_0", 44.33)])
def test_base_en_has_the_published_sizes(type: str, mib: float) -> None:
    """arXiv 2503.09905, table III."""
    assert MODELS["base.en"].file_bytes(type) / 2**20 == pytest.approx(mib, abs=0.01)


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
def test_the_bytes_of_the_vocabularies(n_vocab: int) -> None:
    tokens = known_vocabulary(n_vocab)
    dims = Dims(80, 1500, 64, 1, 1, 448, 64, 1, 1, n_vocab)
    # The same sum with the vocabulary counted instead of remembered.
    size = 48 + 8 + 4 * 80 * 201 + 4 + sum(4 + len(token) for token in tokens)
    for name, shape in tensor_shapes(PRESETS["micro"]._replace(n_vocab=n_vocab)):
        size += 12 + 4 * len(shape) + len(name) + 4 * math.prod(shape)
    assert file_bytes(dims, "f32") == size


@pytest.mark.parametrize("type", ["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
@pytest.mark.parametrize("preset", ["micro", "micro.en"])
def test_file_bytes_are_those_of_a_file(preset: str, type: str, tmp_path: Path) -> None:
    dims = Dims(*PRESETS[preset])
    path = write_random_model(tmp_path / "model.bin", preset, type, vocabulary=known_vocabulary(dims.n_vocab))
    assert path.stat().st_size == file_bytes(dims, type)


def test_file_bytes_of_the_bundled_model() -> None:
    assert MODELS["nano.en"].file_bytes("f16") == resolve_model("nano").stat().st_size


def test_a_type_that_does_not_fit_takes_the_room_of_the_next_larger() -> None:
    tiny, base = MODELS["tiny"], MODELS["base"]
    assert tiny.file_bytes("q6_k") == tiny.file_bytes("q8_0")
    assert base.file_bytes("q2_k") < base.file_bytes("q3_k") < base.file_bytes("q4_k") == base.file_bytes("q4_0")


@pytest.mark.parametrize(("preset", "type"), [("micro.en", "q4_0"), ("tiny", "f16")])
def test_memory_is_what_whisper_cpp_says_it_allocates(
    preset: str, type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="whisperq_edge")
    dims = PRESETS[preset]._replace(n_audio_layer=1, n_text_layer=2)
    path = write_random_model(tmp_path / "model.bin", dims, type)
    with WhisperModel(path, device="cpu", engine="ggml") as model:
        model.transcribe(np.zeros(16000, np.float32), language="en", beam_size=1, temperature=0.0, max_new_tokens=1)
    text = "\n".join(record.getMessage() for record in caplog.records)
    sizes = re.findall(r"(kv \w+ +size|compute buffer \(\w+\)|model size) += +([\d.]+) MB", text)
    parts = {re.sub(" +", " ", name): float(megabytes) for name, megabytes in sizes}
    assert len(parts) == 8, text
    five_beams = 6 * parts["kv self size"]  # the caches of five beams are made when a call asks for them
    expected = sum(parts.values()) + five_beams
    assert memory_bytes(Dims(*dims), type) / 1e6 == pytest.approx(expected, rel=0.03)


# ---- whisperq-edge models --------------------------------------------------------------------------------------------


def test_models_json() -> None:
    result = cli_runner().invoke(main, ["models", "--json"])
    assert result.exit_code == 0, result.stderr
    models = {model["name"]: model for model in json.loads(result.stdout)}
    assert list(models) == list(MODELS)
    assert models["nano.en"]["bundled"] and models["nano.en"]["aliases"] == ["nano"]
    base = models["base.en"]
    assert base["hub_id"] == "openai/whisper-base.en" and base["cached"] == [] and not base["bundled"]
    assert set(base["file_bytes"]) == set(TYPES) and base["file_bytes"]["q5_0"] == MODELS["base.en"].file_bytes("q5_0")
    assert base["memory_bytes"]["q5_0"] > base["file_bytes"]["q5_0"] and "f32" not in base["memory_bytes"]
    assert base["dims"] == PRESETS["base.en"]._asdict() and base["languages"] == 1


def test_models_in_a_pipe() -> None:
    lines = cli_runner().invoke(main, ["models"]).stdout.splitlines()
    assert len(lines) == len(MODELS) + 1
    cells = [line.split() for line in lines]
    assert cells[0][0] == "name" and cells[1][:2] == ["nano.en,", "nano"]
    [base] = [row for row in cells if row[0] == "base.en"]
    assert base[-1] == "openai/whisper-base.en" and "148" in base and "55" in base
