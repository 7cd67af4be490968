"""docs/quantisation.md says what was measured, and what was measured can be measured again."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge._convert.convert import convert_model
from whisperq_edge._store.catalog import MODELS
from whisperq_edge._whisper.types import TYPES

from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts" / "measure_quantisation.py"
PAGE = ROOT / "docs" / "quantisation.md"
FIGURES = ROOT / "docs" / "quantisation.json"
PICTURE = ROOT / "docs" / "quantisation.png"

pytestmark = pytest.mark.skipif(not (SCRIPT.is_file() and PAGE.is_file()), reason="scripts and docs are not here")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_quantisation", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return loaded


def table(name: str) -> dict[str, list[str]]:
    """Cells of the page's table of that name, by their row's first cell without its marks."""
    text = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.group(1).splitlines()[2:]]
    return {re.sub(r"[`*]|,.*", "", row[0]): row[1:] for row in rows}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", cell)]


def test_the_page_is_made_of_the_figures(script: ModuleType, figures: dict[str, Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert script.with_tables(page, script.tables(figures)) == page


def test_table_of_types(figures: dict[str, Any]) -> None:
    rows = table("types")
    assert list(rows) == [row["type"] for row in figures["types"]] and len(rows) == 12
    assert rows["f16"][2] == "the reference"
    for row in figures["types"][1:]:
        bits, _, sqnr, cosine, *_ = rows[row["type"]]
        found, interval = row["sqnr_db"], numbers(sqnr)
        assert float(bits) == row["bits_per_weight"] == TYPES[row["type"]].bits_per_value
        assert interval == pytest.approx([found["mean"], found["low"], found["high"]], abs=0.051)
        assert float(cosine) == pytest.approx(row["cosine"]["mean"], abs=6e-7)
        assert np.mean(row["clips_sqnr_db"]) == pytest.approx(found["mean"], abs=2e-3)
        assert len(row["clips_sqnr_db"]) == figures["n_clips"] == len(figures["clips"]) >= 5


def test_sizes(figures: dict[str, Any]) -> None:
    """arXiv 2503.09905, table III, has these of base.en; the files that were measured are of base."""
    rows = table("schemes")
    assert {name: rows[name][-1] for name in ("f16", "q5_0", "q4_0", "q8_0")} == {
        "f16": "141.11",
        "q5_0": "52.75",
        "q4_0": "44.33",
        "q8_0": "77.99",
    }
    for row in figures["types"]:
        assert row["bytes"] == MODELS["base"].file_bytes(row["type"])
        assert float(rows[row["type"]][-3]) == pytest.approx(row["bytes"] / 1e6, abs=0.0051)


def intervals(value: Any) -> list[dict[str, float]]:
    if isinstance(value, dict) and set(value) == {"mean", "low", "high"}:
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for child in children for found in intervals(child)]


def test_figures_hold_together(figures: dict[str, Any]) -> None:
    assert len(intervals(figures)) > 60
    assert all(each["low"] <= each["mean"] <= each["high"] for each in intervals(figures))
    mean = {row["type"]: row["sqnr_db"]["mean"] for row in figures["types"][1:]}
    for family in (("q8_0", "q5_1", "q4_1"), ("q8_0", "q5_0", "q4_0"), ("q6_k", "q5_k", "q4_k", "q3_k", "q2_k")):
        assert sorted(family, key=mean.__getitem__, reverse=True) == list(family)
    for type_name, layers in figures["one_layer"].items():
        assert min(layer["mean"] for layer in layers) > mean[type_name]  # a part costs less than the whole


def test_picture() -> None:
    data = PICTURE.read_bytes()
    assert data.startswith(b"\x89PNG\r\n") and len(data) < 300_000


# ---- With the encoder and the speech ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder_npz(speech_data: Path) -> Path:
    return speech_data / "whisper-base-encoder" / "encoder_f16.npz"


@pytest.fixture(scope="module")
def model(script: ModuleType, encoder_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = script.write_model(tmp_path_factory.mktemp("base") / "ggml-base.bin", encoder_npz)
    return path


@pytest.fixture(scope="module")
def pcm(script: ModuleType, figures: dict[str, Any], speech_data: Path) -> npt.NDArray[np.float32]:
    first = figures["clips"][0]
    samples: npt.NDArray[np.float32] = script.Clip(first["corpus"], first["speaker"], tuple(first["files"])).pcm(
        speech_data
    )
    assert len(samples) / 16000 == pytest.approx(first["seconds"], abs=0.01)
    return samples


@pytest.mark.data
def test_the_same_encoder_in_torch(
    script: ModuleType, encoder_npz: Path, model: Path, pcm: npt.NDArray[np.float32]
) -> None:
    """The file that everything was measured on computes what openai/whisper computes with these weights."""
    pytest.importorskip("torch")
    pytest.importorskip("whisper")
    [found] = script.encoder_outputs(model, [pcm], 1)
    assert script.distance(script.float32_encoder(encoder_npz)(pcm), found, 1500)["sqnr_db"] > 45


@pytest.mark.data
@pytest.mark.parametrize("type_name", ["q8_0", "q4_0"])
def test_figures_are_measured_again(
    script: ModuleType,
    figures: dict[str, Any],
    model: Path,
    pcm: npt.NDArray[np.float32],
    type_name: str,
    tmp_path: Path,
) -> None:
    convert_model(model, tmp_path / "converted.bin", type=type_name, proof="tensors")
    (before,), (after,) = (script.encoder_outputs(path, [pcm], 1) for path in (model, tmp_path / "converted.bin"))
    expected = next(row["clips_sqnr_db"][0] for row in figures["types"] if row["type"] == type_name)
    # Another CPU adds in another order, which the last bit of an activation's 8 may feel.
    assert script.distance(before, after, 1500)["sqnr_db"] == pytest.approx(expected, abs=1.0)
