"""``convert_model``: bytes against whisper.cpp's quantize tool, types, reports, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whisperq_edge import WhisperModel
from whisperq_edge._convert.convert import convert_model, default_name, parse_size
from whisperq_edge._convert.plan import Recipe, read_recipe, write_recipe
from whisperq_edge._convert.report import sidecar_path
from whisperq_edge._core import read_model_file
from whisperq_edge._errors import ConversionError, ModelFormatError, OptionError, UnsupportedModelError
from whisperq_edge._system.native import load_ggml
from whisperq_edge._whisper.types import TYPES

from tests.support.make_model import PRESETS, Dims, write_random_model
from tests.support.model_layout import tensor_fields
from tests.support.upstream_quantize import build_upstream_quantize

UPSTREAM_TYPES = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k")
FOUR_HEADS = Dims(80, 1500, 256, 4, 1, 448, 256, 4, 1, 51864)  # rows that k-quants' blocks of 256 fit


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("source") / "wide.bin", FOUR_HEADS, "f16")


def convert(source: Path, destination: Path, **options: Any) -> Any:
    return convert_model(source, destination, **{"proof": "tensors", **options})


# ---- Bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", UPSTREAM_TYPES)
def test_the_file_is_the_quantize_tools_file(wide: Path, tmp_path: Path, type_name: str) -> None:
    tool = build_upstream_quantize()
    if tool is None:
        pytest.skip("whisper.cpp's quantize tool cannot be built here")
    subprocess.run([tool, wide, tmp_path / "theirs.bin", type_name], check=True, capture_output=True)
    convert(wide, tmp_path / "ours.bin", type=type_name, n_threads=3)
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()


def test_sizes_of_the_paper(tmp_path: Path) -> None:
    """arXiv 2503.09905, table III: base in f16, INT5, INT4 and INT8, in MiB."""
    source = write_random_model(tmp_path / "base.en.bin", "base.en", "f16")
    expected = {"f16": 141.11, "q5_0": 52.75, "q4_0": 44.33, "q8_0": 77.99}
    found = {}
    for type_name in expected:
        report = convert(source, tmp_path / f"{type_name}.bin", type=type_name)
        found[type_name] = report.to_dict()["destination"]["mib"]
        assert report.path.stat().st_size == report.destination["bytes"]
    assert found == expected


def test_f16_to_f16_is_the_same_file(micro_en_path: Path, tmp_path: Path) -> None:
    report = convert(micro_en_path, tmp_path / "same.bin", type="float16", proof="full")
    assert report.path.read_bytes() == micro_en_path.read_bytes()
    assert report.proof is None and "to the bit" in " ".join(report.notes)


def test_f32_source(tmp_path: Path) -> None:
    """What is quantised from f32 is the same as from f16 only where f16 held it; both are whole files."""
    source = write_random_model(tmp_path / "f32.bin", "micro.en", "f32")
    report = convert(source, tmp_path / "f16.bin", type="f16")
    made = read_model_file(report.path)
    assert made.ftype == "f16" and {t.type for t in made.tensors} == {"f16", "f32"}
    assert write_random_model(tmp_path / "direct.bin", "micro.en", "f16").read_bytes() == report.path.read_bytes()


# ---- Errors of the weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_name", "expected_db"), [("q8_0", 45.4), ("q5_1", 28.4), ("q5_0", 27.4), ("q4_1", 22.1), ("q4_0", 21.3)]
)
def test_sqnr_of_gaussian_rows(type_name: str, expected_db: float) -> None:
    rows = np.random.default_rng(1).standard_normal((2048, 512), np.float32)
    _, error = load_ggml().quantize_rows(rows, "f32", 512, type_name)
    assert 10 * np.log10(error.sum_squares / error.sum_squared_error) == pytest.approx(expected_db, abs=0.1)


@pytest.mark.parametrize("type_name", [*UPSTREAM_TYPES, "iq4_nl", "f16", "f32"])
def test_row_errors_are_those_of_the_result(type_name: str) -> None:
    """The sums against numpy in double precision, and with columns weighted."""
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((5, 512), np.float32)
    weights = rng.random(512).astype(np.float32)
    ggml = load_ggml()
    converted, error = ggml.quantize_rows(rows, "f32", 512, type_name, column_weights=weights)
    back = ggml.dequantize_rows(converted, type_name, 512).astype(np.float64)
    difference = back - rows
    assert error.n_values == rows.size
    # Sums of k float32 terms of one sign: relative error at most k * eps, and there are 512 / 16 terms a lane.
    assert error.sum_squares == pytest.approx(np.sum(rows.astype(np.float64) ** 2), rel=1e-5)
    assert error.sum_squared_error == pytest.approx(np.sum(difference**2), rel=1e-5, abs=1e-12)
    assert error.weighted_squared_error == pytest.approx(np.sum(weights * difference**2), rel=1e-6, abs=1e-12)
    assert error.max_error == pytest.approx(np.abs(difference).max(), rel=1e-6)


def test_float_types_are_read_exactly() -> None:
    ggml = load_ggml()
    values = np.random.default_rng(3).standard_normal((3, 64)).astype(np.float32)
    np.testing.assert_array_equal(ggml.dequantize_rows(values.astype(np.float64), "f64", 64), values)
    halves = values.astype(np.float16)
    np.testing.assert_array_equal(ggml.dequantize_rows(halves, "f16", 64), halves.astype(np.float32))
    truncated = (values.view(np.uint32) >> 16).astype(np.uint16)
    expected = (truncated.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(ggml.dequantize_rows(truncated, "bf16", 64), expected)
    codes = np.arange(-96, 96, dtype=np.int8).reshape(3, 64)
    scales = np.array([0.5, 2.0, 0.0], np.float32)
    expected = codes.astype(np.float32) * scales[:, None]
    np.testing.assert_array_equal(ggml.dequantize_rows(codes, "i8", 64, row_scales=scales), expected)


def test_rows_may_start_at_an_odd_address() -> None:
    rows = np.random.default_rng(4).standard_normal((4, 64)).astype(np.float16).tobytes()
    shifted = memoryview(b"x" + rows)[1:]
    assert (
        load_ggml().quantize_rows(shifted, "f16", 64, "q5_0")[0]
        == (load_ggml().quantize_rows(rows, "f16", 64, "q5_0")[0])
    )


@pytest.mark.parametrize("type_name", ["f16", "q4_0", "q8_0"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, type_name: str, bad: float) -> None:
    source = write_random_model(tmp_path / "bad.bin", "micro.en", "f32")
    tensor = next(t for t in read_model_file(source).tensors if t.name == "decoder.blocks.0.mlp.2.weight")
    at = tensor_fields(tensor).data + 4 * 777
    with open(source, "r+b") as file:
        file.seek(at)
        file.write(np.float32(bad).tobytes())
    with pytest.raises(ModelFormatError, match=r"mlp\.2\.weight value 777 is (nan|-?inf)") as caught:
        convert(source, tmp_path / "out.bin", type=type_name)
    assert caught.value.offset == at
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.bin"]


def test_a_weight_that_the_type_cannot_hold(tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "large.bin", "micro.en", "f32")
    tensor = next(t for t in read_model_file(source).tensors if t.name == "encoder.blocks.0.mlp.0.weight")
    with open(source, "r+b") as file:
        file.seek(tensor.offset + 4 * 130)
        file.write(np.float32(1e6).tobytes())
    with pytest.raises(UnsupportedModelError, match=r"mlp\.0\.weight value 130 is 1e\+06.*65504"):
        convert(source, tmp_path / "out.bin", type="f16")
    assert not (tmp_path / "out.bin").exists()


# ---- Types -----------------------------------------------------------------------------------------------------------


def test_rows_that_do_not_fill_a_block_fall_back_together(micro_en_path: Path, tmp_path: Path) -> None:
    """64 % 256: whisper.cpp's tool would write broken rows; one type for all is what whisper.cpp reads."""
    report = convert(micro_en_path, tmp_path / "out.bin", type="q4_k")
    assert report.destination["type"] == read_model_file(report.path).ftype == "q4_1"
    assert "q4_k" in report.notes[-2] and "encoder.blocks.0.attn.query.weight" in report.notes[-2]
    with WhisperModel(report.path, device="cpu") as model:
        assert model.compute_type == "q4_1"


@pytest.mark.parametrize(("asked", "larger"), [("q2_k", "q4_0"), ("q3_k", "q4_0"), ("q5_k", "q5_1"), ("q6_k", "q8_0")])
def test_the_next_larger_type(micro_en_path: Path, tmp_path: Path, asked: str, larger: str) -> None:
    assert convert(micro_en_path, tmp_path / "out.bin", type=asked).destination["type"] == larger


def test_mixed_types_run(wide: Path, tmp_path: Path, sample_pcm: Any) -> None:
    """A file of many types: read, loaded tensor by tensor in its type, and the same answer as the f16 file's nearly."""
    patterns = ["attn=q8_0", "cross_attn.key=q4_k", "token_embedding=q6_k", r"mlp\.2=f32", "encoder.*value=iq4_nl"]
    report = convert(wide, tmp_path / "mixed.bin", type="q5_1", tensor_types=patterns)
    types = {t.name: t.type for t in read_model_file(report.path).tensors}
    assert read_model_file(report.path).ftype == report.destination["type"] == "mixed"
    assert types["decoder.token_embedding.weight"] == "q6_k"
    assert types["decoder.blocks.0.cross_attn.key.weight"] == "q4_k"
    assert types["decoder.blocks.0.attn.key.weight"] == "q8_0"
    assert types["encoder.blocks.0.attn.value.weight"] == "iq4_nl"
    assert types["encoder.blocks.0.mlp.2.weight"] == "f32" and types["encoder.blocks.0.mlp.0.weight"] == "q5_1"
    assert types["encoder.conv1.weight"] == "f16" and types["encoder.conv1.bias"] == "f32"
    with WhisperModel(report.path, device="cpu") as model:
        assert model.compute_type == "mixed"
        model.transcribe(sample_pcm[:48000], beam_size=1, max_new_tokens=8)


def test_mixed_types_with_the_rows_of_each(micro_en_path: Path, tmp_path: Path) -> None:
    report = convert(micro_en_path, tmp_path / "mixed.bin", type="q4_k", tensor_types=["token_embedding=q8_0"])
    reasons = {cost.name: cost.reason for cost in report.tensors}
    types = {t.name: t.type for t in read_model_file(report.path).tensors}
    assert types["encoder.blocks.0.mlp.2.weight"] == "q4_k"  # rows of 256
    assert types["encoder.blocks.0.mlp.0.weight"] == "q4_1"  # rows of 64
    assert "64" in reasons["encoder.blocks.0.mlp.0.weight"]


def test_whisper_cpp_refuses_mixed_files(micro_en_path: Path, tmp_path: Path) -> None:
    """q4_0 and iq4_nl take the same bytes: it would read one for the other. The number of the file's type, which it
    has no type for, ends it before that (by an assertion, hence the process of its own)."""
    report = convert(micro_en_path, tmp_path / "mixed.bin", type="q4_0", tensor_types=["mlp=iq4_nl"])
    load = "from whisperq_edge._system.native import load_ggml; load_ggml().Engine(sys.argv[1], False, 0, True)"
    code = f"import sys; {load}"
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # or it starts a debugger that waits for ever on sanitizers
    command = [sys.executable, "-c", code, str(report.path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode != 0 and "GGML_TYPE_COUNT" in run.stderr


def test_recipes(wide: Path, tmp_path: Path) -> None:
    strange = ("it's", "a\tb\x00\x7f\n", "it's a\r\\d", '"')
    recipe = Recipe(
        "q5_0",
        (("token_embedding", "q8_0"), (r"blocks\.0\.mlp", "q4_0"), *((text, "f16") for text in strange)),
    )
    path = tmp_path / "recipe.toml"
    path.write_bytes(write_recipe(recipe).encode())
    assert read_recipe(path) == recipe
    path.write_text(write_recipe(Recipe("q5_0", recipe.patterns[:2])))
    types = {t.name: t.type for t in read_model_file(convert(wide, tmp_path / "a.bin", recipe=path).path).tensors}
    assert types["decoder.blocks.0.mlp.0.weight"] == "q4_0" and types["decoder.token_embedding.weight"] == "q8_0"
    assert types["decoder.blocks.0.attn.key.weight"] == "q5_0"


@pytest.mark.parametrize(
    "text", ["type = 5", "types = 'q5_0'", "[[tensor]]\nmatch='a'", "not toml", "[[tensor]]\nmatch='('\ntype='f16'"]
)
def test_recipes_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(OptionError):
        read_recipe(tmp_path / "recipe.toml")


# ---- Types under a budget --------------------------------------------------------------------------------------------


def test_target_size(wide: Path, tmp_path: Path) -> None:
    sizes = []
    for target in (8_500_000, 12_000_000, 20_000_000):
        report = convert(wide, tmp_path / f"{target}.bin", target_size=target)
        sizes.append(report.path.stat().st_size)
        assert 0.85 * target < sizes[-1] <= target
        recipe = read_recipe(tmp_path / f"{target}.bin.toml")
        again = convert(wide, tmp_path / "again.bin", recipe=tmp_path / f"{target}.bin.toml", overwrite=True)
        assert again.path.read_bytes() == report.path.read_bytes(), recipe
    noises = [json.loads(sidecar_path(tmp_path / f"{t}.bin").read_text()) for t in (8_500_000, 20_000_000)]
    worst = [min(t["sqnr_db"] for t in noise["tensors"] if t["quantised"]) for noise in noises]
    assert worst[0] < worst[1]


def test_target_size_that_nothing_reaches(micro_en_path: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at least"):
        convert(micro_en_path, tmp_path / "out.bin", target_size="1MB")


def test_calibration_moves_the_choice(wide: Path, tmp_path: Path, sample_path: Path) -> None:
    """Weights by activation are other weights: the recipe differs, within the same budget."""
    plain = convert(wide, tmp_path / "plain.bin", target_size="10MB")
    calibrated = convert(wide, tmp_path / "calibrated.bin", target_size="10MB", calibrate=[sample_path], n_threads=1)
    assert calibrated.path.stat().st_size <= 10_000_000
    assert calibrated.recipe != plain.recipe


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("40MB", 40_000_000), ("38 MiB", 38 * 2**20), ("1.5gb", 1_500_000_000), (1234, 1234)]
)
def test_sizes_in_words(text: Any, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "5TB", "1e6"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="target_size"):
        parse_size(text)


# ---- Report and proof ------------------------------------------------------------------------------------------------


def test_the_report_names_every_tensor_and_why(micro_en_path: Path, tmp_path: Path) -> None:
    report = convert(micro_en_path, tmp_path / "out.bin", type="int5")
    data = json.loads(sidecar_path(report.path).read_text(encoding="utf-8"))
    assert data == json.loads(json.dumps(report.to_dict()))
    made = {t.name: t for t in read_model_file(report.path).tensors}
    assert {t["name"] for t in data["tensors"]} == set(made)
    for tensor in data["tensors"]:
        assert tensor["bytes"] == made[tensor["name"]].n_bytes and tensor["type"] == made[tensor["name"]].type
        assert tensor["reason"] and tensor["quantised"] == (TYPES[tensor["type"]].block_size > 1)
        if tensor["quantised"]:
            assert (tensor["group"], tensor["symmetric"]) == (32, True)
            assert 26 < tensor["sqnr_db"] < 29 and tensor["max_error"] > 0
    assert data["source_sha256"] != data["sha256"] and data["versions"]["quantizer"].startswith("ggml")


def test_the_whole_model_is_proven(micro_en_path: Path, tmp_path: Path) -> None:
    report = convert_model(micro_en_path, tmp_path / "out.bin", type="q8_0", n_threads=1)
    assert report.proof is not None and report.verdict
    assert 0.99 < report.proof["encoder"]["cosine"] <= 1


def test_a_result_below_min_agreement_is_no_file(micro_en_path: Path, tmp_path: Path) -> None:
    """Random weights agree on no token's neighbourhood as trained ones do: 2 bits are far off."""
    with pytest.raises(ConversionError, match="min_agreement"):
        convert_model(micro_en_path, tmp_path / "out.bin", type="q4_0", min_agreement=1.0, n_threads=1)
    assert list(tmp_path.iterdir()) == []


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"type": "q7_0"}, "type"),
        ({"to": "gguf"}, "to"),
        ({"proof": "none"}, "proof"),
        ({"min_agreement": 1.5}, "min_agreement"),
        ({"min_agreement": 0.9, "proof": "tensors"}, "min_agreement"),
        ({"tensor_types": ["mlp"]}, "tensor_type"),
        ({"tensor_types": ["(=q4_0"]}, "tensor_type"),
        ({"tensor_types": ["nothing_has_this=q4_0"]}, "tensor_type"),
        ({"recipe": "missing.toml"}, "recipe"),
        ({"target_size": "40MB", "type": "q5_0"}, "target_size"),
        ({"calibrate": ["a.wav"]}, "calibrate"),
        ({"to": "openai", "type": "q5_0"}, "type"),
    ],
)
def test_options_that_are_not_possible(
    micro_en_path: Path, tmp_path: Path, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(OptionError) as caught:
        convert_model(micro_en_path, tmp_path / "out.bin", **options)
    assert caught.value.field == field
    assert list(tmp_path.iterdir()) == []


def test_destinations_that_are_not_possible(micro_en_path: Path, tmp_path: Path) -> None:
    (tmp_path / "there.bin").write_bytes(b"precious")
    (tmp_path / "link.bin").symlink_to(micro_en_path)
    for destination in (
        micro_en_path,
        tmp_path / "link.bin",
        tmp_path,
        tmp_path / "there.bin",
        tmp_path / "no" / "such.bin",
    ):
        with pytest.raises(OptionError, match="destination"):
            convert(micro_en_path, destination, overwrite=destination.name != "there.bin")
    assert (tmp_path / "there.bin").read_bytes() == b"precious"


def test_overwrite(micro_en_path: Path, tmp_path: Path) -> None:
    (tmp_path / "there.bin").write_bytes(b"old")
    assert read_model_file(convert(micro_en_path, tmp_path / "there.bin", overwrite=True).path).ftype == "q5_0"


@pytest.mark.parametrize(
    ("source", "type_name", "expected"),
    [
        ("openai/whisper-base.en", "q5_0", "ggml-base.en-q5_0.bin"),
        ("models/ggml-base.en.bin", "q8_0", "ggml-base.en-q8_0.bin"),
        ("ggml-small-q5_0.bin", "q4_0", "ggml-small-q4_0.bin"),
        ("tiny.pt", "f16", "ggml-tiny.bin"),
        ("large-v3-turbo", "q4_k", "ggml-large-v3-turbo-q4_k.bin"),
        ("Systran/faster-whisper-base", "q8_0", "ggml-base-q8_0.bin"),
    ],
)
def test_default_names(source: str, type_name: str, expected: str) -> None:
    assert default_name(source, "ggml", Recipe(type_name), None) == Path(expected)


def test_quantising_twice_is_told(micro_en_path: Path, tmp_path: Path) -> None:
    once = convert(micro_en_path, tmp_path / "once.bin", type="q8_0")
    twice = convert(once.path, tmp_path / "twice.bin", type="q4_0")
    assert "quantis" in " ".join(twice.notes)


# ---- Sizes of published models ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_large_v3_converts_in_little_memory(tmp_path: Path) -> None:
    """3.1 GB in, under 700 MB of memory. Needs 5 GB of disk and minutes to make the source."""
    import shutil

    pytest.importorskip("resource")
    if shutil.disk_usage(tmp_path).free < 6e9:
        pytest.skip("needs 6 GB of disk")
    source = write_random_model(tmp_path / "large-v3.bin", PRESETS["large-v3"], "f16")
    code = (
        "import resource, sys\n"
        "from whisperq_edge._convert.convert import convert_model\n"
        "report = convert_model(sys.argv[1], sys.argv[2], type='q5_0', proof='tensors')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, report.seconds['convert'])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path / "out.bin")], capture_output=True, text=True, check=True
    )
    peak_kib = int(run.stdout.split()[0])
    assert peak_kib * (1 if sys.platform == "darwin" else 1024) < 700e6
    source.unlink()
