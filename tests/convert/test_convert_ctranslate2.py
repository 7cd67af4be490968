"""CTranslate2 folders as a source: files of our own writer, damaged ones, and those of the real package."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from whisperq_edge._convert.readers.ctranslate2 import is_ctranslate2, open_ctranslate2
from whisperq_edge._convert.readers.open_source import open_source
from whisperq_edge._convert.readers.source import Source, SourceTensor
from whisperq_edge._whisper.mel_filters import mel_filters
from whisperq_edge._whisper.shapes import expected_shapes
from whisperq_edge._whisper.tokenizer import special_names
from whisperq_edge._whisper.vocabulary import known_vocabulary

from tests.support.make_model import Dims, write_random_model

# Small but for the embeddings, whose number of rows Whisper fixes.
DIMS = Dims(80, 12, 64, 1, 2, 8, 64, 1, 2, 51865)
ENGLISH = DIMS._replace(n_vocab=51864, n_audio_layer=1, n_text_layer=1)

NUMPY_TYPES = {"float32": "<f4", "int8": "i1", "int16": "<i2", "int32": "<i4", "float16": "<f2", "bfloat16": "<u2"}
TYPE_IDS = {name: i for i, name in enumerate(NUMPY_TYPES)}
SOURCE_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "i8"}

Values = dict[str, npt.NDArray[np.float32]]
Variables = dict[str, tuple[str, npt.NDArray[Any]]]  # CTranslate2's type and the stored values


# ---- The writer ------------------------------------------------------------------------------------------------------


def _weights(dims: Dims, seed: int = 0) -> Values:
    """Random weights by openai/whisper's names, such that float16 and bfloat16 hold them exactly."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.integers(-127, 128, shape) / np.float32(64)).astype(np.float32)
        for name, shape in expected_shapes(dims).items()
    }


def _layer(weights: Values, ours: str, theirs: str, cross: bool) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    zeros = np.zeros_like(weights[f"{ours}.attn.query.bias"])

    def linear(name: str, *parts: str) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        yield f"{theirs}/{name}/weight", np.concatenate([weights[f"{ours}.{part}.weight"] for part in parts])
        biases = [weights.get(f"{ours}.{part}.bias", zeros) for part in parts]
        yield f"{theirs}/{name}/bias", np.concatenate(biases)

    def norm(name: str, part: str) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        yield f"{theirs}/{name}/gamma", weights[f"{ours}.{part}.weight"]
        yield f"{theirs}/{name}/beta", weights[f"{ours}.{part}.bias"]

    yield from norm("self_attention/layer_norm", "attn_ln")
    yield from linear("self_attention/linear_0", "attn.query", "attn.key", "attn.value")
    yield from linear("self_attention/linear_1", "attn.out")
    if cross:
        yield from norm("attention/layer_norm", "cross_attn_ln")
        yield from linear("attention/linear_0", "cross_attn.query")
        yield from linear("attention/linear_1", "cross_attn.key", "cross_attn.value")
        yield from linear("attention/linear_2", "cross_attn.out")
    yield from norm("ffn/layer_norm", "mlp_ln")
    yield from linear("ffn/linear_0", "mlp.0")
    yield from linear("ffn/linear_1", "mlp.2")


def _floats(weights: Values, dims: Dims) -> Values:
    """CTranslate2's variables in float32."""
    variables = {
        "encoder/conv1/weight": weights["encoder.conv1.weight"],
        "encoder/conv1/bias": weights["encoder.conv1.bias"],
        "encoder/conv2/weight": weights["encoder.conv2.weight"],
        "encoder/conv2/bias": weights["encoder.conv2.bias"],
        "encoder/position_encodings/encodings": weights["encoder.positional_embedding"],
        "encoder/layer_norm/gamma": weights["encoder.ln_post.weight"],
        "encoder/layer_norm/beta": weights["encoder.ln_post.bias"],
        "decoder/embeddings/weight": weights["decoder.token_embedding.weight"],
        "decoder/position_encodings/encodings": weights["decoder.positional_embedding"],
        "decoder/layer_norm/gamma": weights["decoder.ln.weight"],
        "decoder/layer_norm/beta": weights["decoder.ln.bias"],
    }
    for layer in range(dims.n_audio_layer):
        variables.update(_layer(weights, f"encoder.blocks.{layer}", f"encoder/layer_{layer}", cross=False))
    for layer in range(dims.n_text_layer):
        variables.update(_layer(weights, f"decoder.blocks.{layer}", f"decoder/layer_{layer}", cross=True))
    return variables


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Exact for values that need no more than its 8 bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _stored(values: npt.NDArray[np.float32], type: str) -> npt.NDArray[Any]:
    return _bfloat16(values) if type == "bfloat16" else values.astype(NUMPY_TYPES[type])


def _variables(weights: Values, dims: Dims, matrix: str, other: str) -> Variables:
    variables: Variables = {}
    for name, values in _floats(weights, dims).items():
        if matrix == "int8" and name.endswith("/weight"):
            rows = values.reshape(len(values), -1)
            largest = np.abs(rows).max(axis=1)
            scale = (127 / np.where(largest == 0, 127, largest)).astype(np.float32)
            variables[name] = "int8", np.rint(rows * scale[:, None]).astype(np.int8).reshape(values.shape)
            variables[f"{name}_scale"] = "float32", scale
        else:
            type = matrix if name.endswith("/weight") else other
            variables[name] = type, _stored(values, type)
    numbers = {"pre_norm": ("int8", 1), "activation": ("int8", 3), "alignment_heads": ("int16", 1)}
    numbers |= {"alignment_layer": ("int16", -1), "alibi": ("int8", 0), "scale_embeddings": ("int8", 0)}
    for name, (type, number) in {**numbers, "num_heads": ("int16", dims.n_text_head)}.items():
        variables[f"decoder/{name}"] = type, np.array(number, NUMPY_TYPES[type])
    variables["encoder/num_heads"] = "int16", np.array(dims.n_audio_head, "<i2")
    return variables


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _file(
    variables: Variables, aliases: Optional[dict[str, str]] = None, version: int = 6, name: str = "WhisperSpec"
) -> bytes:
    parts = [struct.pack("<I", version), _string(name), struct.pack("<II", 3, len(variables))]
    for variable, (type, values) in sorted(variables.items()):
        parts += [_string(variable), struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)]
        parts += [struct.pack("<BI", TYPE_IDS[type], values.nbytes), values.tobytes()]
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"} if aliases is None else aliases
    parts.append(struct.pack("<I", len(aliases)))
    parts += [_string(alias) + _string(target) for alias, target in sorted(aliases.items())]
    return b"".join(parts)


def _spelling() -> dict[int, str]:
    """GPT-2's character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def _tokens(n_vocab: int) -> list[str]:
    """All tokens of a model, as the converter writes them."""
    characters = _spelling()
    n_text = 50256 if n_vocab == 51864 else 50257
    text = ["".join(characters[byte] for byte in token) for token in known_vocabulary(n_vocab)[:n_text]]
    return [*text, *special_names(100 if n_vocab == 51866 else 99)]


def _folder(path: Path, data: bytes, vocabulary: Optional[str] = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.bin").write_bytes(data)
    (path / "config.json").write_text(json.dumps({"lang_ids": [50259], "suppress_ids": []}))
    if vocabulary is not None:
        (path / "vocabulary.json").write_text(vocabulary, encoding="utf-8")
    return path


def _values(tensor: SourceTensor) -> npt.NDArray[np.float32]:
    """The tensor's values, by the contract of SourceTensor."""
    data = tensor.read_rows(0, tensor.n_rows)
    if tensor.type == "bf16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"f32": "<f4", "f16": "<f2", "i8": "i1"}[tensor.type]).astype(np.float32)
    if tensor.row_scales is not None:
        assert tensor.row_scales.shape == (tensor.n_rows,) and tensor.row_scales.dtype == np.float32
        values = (values.reshape(tensor.n_rows, -1) * tensor.row_scales[:, None]).astype(np.float32)
    return values.reshape(tensor.shape)


@pytest.fixture(scope="module")
def weights() -> Values:
    return _weights(DIMS)


@pytest.fixture(scope="module")
def variables() -> Variables:
    """The smallest model, for tests that change one thing in it."""
    return _variables(_weights(ENGLISH), ENGLISH, "int8", "float16")


# ---- Whole files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["float32", "float16", "bfloat16"])
def test_floats_are_the_same_values(type: str, weights: Values, tmp_path: Path) -> None:
    folder = _folder(tmp_path, _file(_variables(weights, DIMS, type, type)))
    source = open_ctranslate2(folder)
    assert (source.format, source.path, source.dims) == ("ctranslate2", folder, DIMS)
    assert source.files == [folder / "model.bin"]
    assert source.ftype == SOURCE_TYPES[type] and source.notes == []
    assert source.vocabulary is None and source.mel_filters is None
    assert [tensor.name for tensor in source.tensors] == list(expected_shapes(DIMS))
    for tensor in source.tensors:
        assert tensor.type == SOURCE_TYPES[type]
        assert np.array_equal(_values(tensor), weights[tensor.name]), tensor.name
        if tensor.n_rows > 2:
            whole, row_bytes = tensor.read_rows(0, tensor.n_rows), len(tensor.read_rows(0, 1))
            assert tensor.read_rows(2, 1) == whole[2 * row_bytes : 3 * row_bytes]


@pytest.mark.parametrize("other", ["float32", "float16", "bfloat16"])
def test_int8_is_off_by_half_a_step_at_most(other: str, weights: Values, tmp_path: Path) -> None:
    source = open_ctranslate2(_folder(tmp_path, _file(_variables(weights, DIMS, "int8", other))))
    assert source.ftype == "i8"
    assert [note for note in source.notes if "quantised already (i8)" in note and "f16" in note]
    for tensor in source.tensors:
        expected = weights[tensor.name]
        is_matrix = tensor.name.endswith(".weight") and len(tensor.shape) > 1
        assert tensor.type == ("i8" if is_matrix else SOURCE_TYPES[other])
        if not is_matrix:
            assert np.array_equal(_values(tensor), expected)
            continue
        largest = np.abs(expected.reshape(len(expected), -1)).max(axis=1)
        half_step = (largest / 254).reshape(-1, *[1] * (expected.ndim - 1))
        error = np.abs(_values(tensor) - expected)
        assert np.all(error <= half_step * (1 + 2e-5)), tensor.name  # 2e-5: roundings of scale, factor and product


def test_where_an_error_about_a_weight_shall_point(weights: Values, tmp_path: Path) -> None:
    data = _file(_variables(weights, DIMS, "float32", "float32"))
    for tensor in open_ctranslate2(_folder(tmp_path, data)).tensors:
        path, offset = tensor.where
        assert path == str(tmp_path / "model.bin")
        assert data[offset : offset + 4] == weights[tensor.name].tobytes()[:4]


def test_aliases_are_followed(weights: Values, tmp_path: Path) -> None:
    """The converter stores equal variables once, whatever they are; an int8 matrix shares its scale too."""
    changed = dict(weights)
    changed["decoder.blocks.1.mlp.0.weight"] = weights["decoder.blocks.0.mlp.0.weight"]
    changed["decoder.ln.bias"] = weights["encoder.ln_post.bias"]
    stored = _variables(changed, DIMS, "int8", "float32")
    same = {
        "decoder/layer_1/ffn/linear_0/weight": "decoder/layer_0/ffn/linear_0/weight",
        "decoder/layer_norm/beta": "encoder/layer_norm/beta",
        "decoder/projection/weight": "decoder/embeddings/weight",
    }
    for name in ("decoder/layer_1/ffn/linear_0/weight", "decoder/layer_norm/beta"):
        del stored[name]
    del stored["decoder/layer_1/ffn/linear_0/weight_scale"]
    tensors = {t.name: t for t in open_ctranslate2(_folder(tmp_path, _file(stored, same))).tensors}
    first, second = (_values(tensors[f"decoder.blocks.{layer}.mlp.0.weight"]) for layer in (0, 1))
    assert np.array_equal(first, second)
    assert np.array_equal(_values(tensors["decoder.ln.bias"]), changed["decoder.ln.bias"])


@pytest.mark.parametrize("version", [4, 5, 6])
def test_versions_that_are_read(version: int, variables: Variables, tmp_path: Path) -> None:
    assert open_ctranslate2(_folder(tmp_path, _file(variables, version=version))).dims == ENGLISH


def test_a_projection_of_its_own_that_is_the_same(variables: Variables, tmp_path: Path) -> None:
    own = dict(variables)
    for end in ("weight", "weight_scale"):
        own[f"decoder/projection/{end}"] = variables[f"decoder/embeddings/{end}"]
    own["decoder/projection/bias"] = "float16", np.zeros(51864, "<f2")
    assert open_ctranslate2(_folder(tmp_path, _file(own, {}))).dims == ENGLISH
    type, scale = variables["decoder/embeddings/weight_scale"]
    own["decoder/projection/weight_scale"] = type, scale * np.float32(2)
    with pytest.raises(UnsupportedModelError, match="projection"):
        open_ctranslate2(_folder(tmp_path, _file(own, {})))


# ---- Vocabulary ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
@pytest.mark.parametrize("name", ["vocabulary.json", "vocabulary.txt"])
def test_the_vocabulary_is_read(n_vocab: int, name: str, tmp_path: Path) -> None:
    dims = ENGLISH._replace(n_vocab=n_vocab)
    folder = _folder(tmp_path, _file(_variables(_weights(dims), dims, "int8", "float32")))
    tokens = _tokens(n_vocab)
    assert len(tokens) == n_vocab
    text = json.dumps(tokens) if name.endswith("json") else "\n".join(tokens) + "\n"
    (folder / name).write_bytes(text.encode())
    source = open_ctranslate2(folder)
    assert source.vocabulary == known_vocabulary(n_vocab)
    assert source.files == [folder / "model.bin", folder / name]
    assert not [note for note in source.notes if "ocabulary" in note]


def _tuned(
    path: Path, n_vocab: int, n_rows: int, tokens: list[str], tokenizer: Optional[dict[str, Any]] = None
) -> Path:
    """A fine-tune of a model of ``n_vocab`` tokens."""
    dims = ENGLISH._replace(n_vocab=n_rows, n_mels=128 if n_vocab == 51866 else 80)
    folder = _folder(path, _file(_variables(_weights(dims), dims, "int8", "float32")), json.dumps(tokens))
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.parametrize("n_vocab", [51864, 51865, 51866])
def test_tokens_that_were_added_are_left_out_and_named(n_vocab: int, tmp_path: Path) -> None:
    source = open_ctranslate2(_tuned(tmp_path, n_vocab, n_vocab + 1, [*_tokens(n_vocab), "<|speaker|>"]))
    assert source.dims.n_vocab == n_vocab and source.vocabulary == known_vocabulary(n_vocab)
    assert [note for note in source.notes if f"'<|speaker|>' ({n_vocab})" in note]
    whole = _weights(ENGLISH._replace(n_vocab=n_vocab + 1, n_mels=source.dims.n_mels))
    [embedding] = [tensor for tensor in source.tensors if tensor.name == "decoder.token_embedding.weight"]
    assert embedding.shape == (n_vocab, 64) and embedding.row_scales is not None
    error = np.abs(_values(embedding) - whole["decoder.token_embedding.weight"][:n_vocab])
    assert error.max() <= 127 / 64 / 254 * (1 + 2e-5)


def test_a_converter_that_fills_up_with_times_hides_no_token(tmp_path: Path) -> None:
    """CTranslate2's converter calls every row that it knows no name of a time; the tokenizer has its name."""
    text = {token: number for number, token in enumerate(_tokens(51864)[:50256])}
    added = [{"id": 51864, "content": "<|speaker|>"}]
    tokens = [*_tokens(51864), "<|30.02|>", "<|0.00|>"]
    folder = _tuned(tmp_path, 51864, 51866, tokens, {"added_tokens": added, "model": {"vocab": text}})
    source = open_ctranslate2(folder)
    assert source.dims.n_vocab == 51864 and source.files[-1].name == "tokenizer.json"
    assert [note for note in source.notes if "'<|speaker|>' (51864)" in note and "30.02" not in note]
    assert [note for note in source.notes if "1 of 51866 rows" in note]


@pytest.mark.parametrize("multiple", [8, 64, 128])
def test_padded_vocabularies_convert(multiple: int, tmp_path: Path) -> None:
    n_rows = -(-51865 // multiple) * multiple
    source = open_ctranslate2(_tuned(tmp_path, 51864, n_rows, _tokens(51864)))
    assert source.dims == ENGLISH
    assert [note for note in source.notes if f"{n_rows - 51864} of {n_rows} rows" in note]


def test_ids_that_are_shifted_are_refused_with_both_numbers(tmp_path: Path) -> None:
    tokens = [*_tokens(51865)[:50257], "abcabc", *_tokens(51865)[50257:]]
    with pytest.raises(UnsupportedModelError, match=r"vocabulary\.json gives .* the id 50258; .* 50256 or 50257"):
        open_ctranslate2(_tuned(tmp_path / "a", 51865, 51866, tokens))
    tokens = [*_tokens(51864)[:50256], "abcabc", *_tokens(51864)[50256:]]
    with pytest.raises(UnsupportedModelError, match=r"the id 50257 .* the id 50256"):
        open_ctranslate2(_tuned(tmp_path / "b", 51864, 51865, tokens))


def _without_quality(source: Source) -> list[str]:
    return [note for note in source.notes if "quantised already" not in note]


def test_what_a_folder_lacks_is_whispers_own(variables: Variables, tmp_path: Path) -> None:
    source = open_source(_folder(tmp_path, _file(variables)))
    assert source.vocabulary == known_vocabulary(51864)
    assert source.mel_filters is not None and source.mel_filters.tobytes() == mel_filters(80).tobytes()
    [vocabulary] = _without_quality(source)
    assert "english" in vocabulary


def test_a_vocabulary_of_another_model_is_kept_and_named(variables: Variables, tmp_path: Path) -> None:
    tokens = _tokens(51864)
    tokens[500], tokens[501] = tokens[501], tokens[500]
    source = open_source(_folder(tmp_path, _file(variables), json.dumps(tokens)))
    own = known_vocabulary(51864)
    own[500], own[501] = own[501], own[500]
    assert source.vocabulary == own
    assert [note for note in source.notes if "2 of its 50256 text tokens" in note]


@pytest.mark.parametrize(
    "tokens", [[], ["a", "b"], ["<|endoftext|>"] * 51864, [f"{i} " for i in range(50256)] + ["<|endoftext|>"]]
)
def test_a_vocabulary_that_says_nothing_is_left_out(tokens: list[str], variables: Variables, tmp_path: Path) -> None:
    if tokens[:1] == ["<|endoftext|>"]:
        tokens = [*tokens[:50256], "x", *tokens[50257:]]
    folder = _folder(tmp_path, _file(variables), json.dumps(tokens))
    source = open_ctranslate2(folder)
    assert source.vocabulary is None
    assert [note for note in source.notes if "vocabulary.json" in note and "not used" in note]
    assert open_source(folder).vocabulary == known_vocabulary(51864)


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b'{"a": 1}', b"[1, 2]", b'["a", null]', b"\xff\xfe", b'"text"', b"[" * 100_000, b"1" * 10_000],
    ids=["empty", "cut", "object", "numbers", "null", "no UTF-8", "string", "deep", "long number"],
)
def test_a_damaged_vocabulary_is_an_error(data: bytes, variables: Variables, tmp_path: Path) -> None:
    folder = _folder(tmp_path, _file(variables))
    (folder / "vocabulary.json").write_bytes(data)
    with pytest.raises(ModelFormatError, match=r"vocabulary\.json"):
        open_ctranslate2(folder)


# ---- Which folder ----------------------------------------------------------------------------------------------------


def test_which_folders_are_ctranslate2s(variables: Variables, tmp_path: Path) -> None:
    assert not is_ctranslate2(tmp_path)
    assert is_ctranslate2(_folder(tmp_path, _file(variables)))
    (tmp_path / "config.json").write_text("{ damaged")
    assert is_ctranslate2(tmp_path)
    (tmp_path / "config.json").unlink()
    assert is_ctranslate2(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    assert not is_ctranslate2(tmp_path)


def test_a_ggml_file_of_that_name_is_ggmls(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model.bin", ENGLISH, "q8_0")
    assert not is_ctranslate2(tmp_path)
    assert open_source(tmp_path).format == "ggml"


def test_open_source_opens_the_folder(variables: Variables, tmp_path: Path) -> None:
    source = open_source(_folder(tmp_path, _file(variables), json.dumps(_tokens(51864))))
    assert source.format == "ctranslate2" and source.dims == ENGLISH
    with pytest.raises(UnsupportedModelError, match=r"CTranslate2's model\.bin: give its folder"):
        open_source(tmp_path / "model.bin")


def test_a_git_lfs_pointer_instead_of_the_model(variables: Variables, tmp_path: Path) -> None:
    folder = _folder(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(UnsupportedModelError, match="git lfs pull"):
        open_source(folder)


def test_no_model_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model\.bin"):
        open_ctranslate2(tmp_path)


# ---- What Whisper has not --------------------------------------------------------------------------------------------


def _changed(variables: Variables, **changes: tuple[str, Any]) -> bytes:
    changed = dict(variables)
    for name, (type, values) in changes.items():
        changed[name.replace("__", "/")] = type, np.asarray(values, NUMPY_TYPES[type])
    return _file(changed)


def _key_bias(position: int) -> npt.NDArray[np.float16]:
    bias = np.zeros(192, np.float16)
    bias[position] = 1
    return bias


def _embeddings_of(type: str) -> tuple[str, npt.NDArray[Any]]:
    return type, np.zeros((51864, 64), NUMPY_TYPES[type])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("encoder__layer_0__self_attention__linear_0__bias", ("float16", _key_bias(64)), "keys"),
        ("encoder__layer_0__self_attention__linear_0__bias", ("float16", _key_bias(127)), "keys"),
        ("decoder__layer_0__attention__linear_1__bias", ("float16", _key_bias(0)[:128]), "keys"),
        ("decoder__projection__bias", ("float16", np.ones(51864)), "projection/bias"),
        ("decoder__embeddings__weight", _embeddings_of("int16"), "int16.*float16"),
        ("decoder__embeddings__weight", _embeddings_of("int32"), "int32.*float16"),
        ("encoder__layer_norm__gamma", ("int8", np.ones(64)), "int8"),
        ("decoder__pre_norm", ("int8", 0), "pre_norm is 0; Whisper has 1"),
        ("decoder__activation", ("int8", 0), "activation is 0; Whisper has 1 or 3"),
        ("decoder__scale_embeddings", ("int8", 1), "scale_embeddings is 1; Whisper has 0"),
        ("decoder__alibi", ("bfloat16", 0x3F80), "alibi is 1"),
        ("decoder__num_heads", ("int16", 2), "2 heads for 64"),
        ("decoder__layer_0__self_attention__rotary_dim", ("int32", 64), "rotary_dim is 64"),
        ("decoder__layer_0__self_attention__q_norm__gamma", ("float32", np.ones(64)), r"q_norm/gamma \[64\]"),
    ],
)
def test_what_whisper_has_not_is_refused(
    name: str, change: tuple[str, Any], words: str, variables: Variables, tmp_path: Path
) -> None:
    folder = _folder(tmp_path, _changed(variables, **{name: change}))
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        open_ctranslate2(folder)
    assert str(folder / "model.bin") in str(caught.value)


def test_switched_off_is_not_there(variables: Variables, tmp_path: Path) -> None:
    data = _changed(variables, decoder__multi_query_attention=("int8", 0), decoder__scale_alibi=("int8", 0))
    assert open_ctranslate2(_folder(tmp_path, data)).dims == ENGLISH


def test_a_negative_zero_is_a_zero(variables: Variables, tmp_path: Path) -> None:
    bias = np.full(192, -0.0, np.float16)
    data = _changed(variables, encoder__layer_0__self_attention__linear_0__bias=("float16", bias))
    assert open_ctranslate2(_folder(tmp_path, data)).dims == ENGLISH


def test_other_versions_and_models(variables: Variables, tmp_path: Path) -> None:
    for version in (1, 3, 7):
        with pytest.raises(UnsupportedModelError, match=f"version {version}"):
            open_ctranslate2(_folder(tmp_path, _file(variables, version=version)))
    with pytest.raises(UnsupportedModelError, match="TransformerSpec"):
        open_ctranslate2(_folder(tmp_path, _file(variables, name="TransformerSpec")))


# ---- Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("encoder__conv1__weight", ("float32", np.zeros((64, 80))), "conv1/weight dims"),
        ("encoder__conv1__bias", ("float32", np.zeros((64, 1))), "conv1/bias dims"),
        ("encoder__layer_0__ffn__linear_0__weight", ("float32", np.zeros((255, 64))), "linear_0/weight dims"),
        ("decoder__num_heads", ("int16", [1]), "num_heads dims"),
        ("decoder__num_heads", ("float16", np.nan), "n_text_head is nan"),
        ("encoder__num_heads", ("float32", np.inf), "n_audio_head is inf"),
        ("encoder__num_heads", ("float32", 1.5), r"n_audio_head is 1\.5"),
        ("encoder__conv1__weight_scale", ("float32", np.ones(63)), "conv1/weight_scale"),
        ("encoder__conv1__weight_scale", ("float16", np.ones(64)), "conv1/weight_scale"),
        ("encoder__conv1__weight_scale", ("float32", [*[1.0] * 63, np.nan]), "value 63 is nan"),
        ("encoder__conv1__weight_scale", ("float32", [0.0, *[1.0] * 63]), r"value 0 is 0\.0"),
        ("encoder__conv1__weight_scale", ("float32", [-1.0, *[1.0] * 63]), r"value 0 is -1\.0"),
        ("encoder__conv1__weight_scale", ("float32", [1.0, np.inf, *[1.0] * 62]), "value 1 is inf"),
        ("encoder__conv1__weight_scale", ("float32", [1.0, 1e-45, *[1.0] * 62]), "value 1 is 1e-45"),
    ],
)
def test_wrong_shapes_and_scales(
    name: str, change: tuple[str, Any], words: str, variables: Variables, tmp_path: Path
) -> None:
    data = _changed(variables, **{name: change})
    with pytest.raises(ModelFormatError, match=words) as caught:
        open_ctranslate2(_folder(tmp_path, data))
    assert 0 <= caught.value.offset < len(data)


@pytest.mark.parametrize(
    "name",
    [
        "encoder/conv2/weight",
        "encoder/conv2/weight_scale",
        "decoder/embeddings/weight",
        "encoder/position_encodings/encodings",
        "decoder/layer_0/attention/linear_1/bias",
        "decoder/layer_norm/beta",
    ],
)
def test_a_missing_variable(name: str, variables: Variables, tmp_path: Path) -> None:
    rest = {key: value for key, value in variables.items() if key != name}
    aliases = {} if name == "decoder/embeddings/weight" else None
    with pytest.raises(ModelFormatError, match=f"variable {name} is missing"):
        open_ctranslate2(_folder(tmp_path, _file(rest, aliases)))


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        ({"decoder/projection/weight": "decoder/absent"}, "decoder/absent"),
        ({"encoder/conv1/bias": "encoder/conv2/bias"}, "encoder/conv1/bias again"),
        ({"a": "b", "b": "encoder/conv1/bias"}, "target of alias 0 is b"),
    ],
)
def test_wrong_aliases(aliases: dict[str, str], words: str, variables: Variables, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=words):
        open_ctranslate2(_folder(tmp_path, _file(variables, aliases)))


def test_an_alias_that_whisper_has_not(variables: Variables, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="decoder/extra/weight"):
        open_ctranslate2(_folder(tmp_path, _file(variables, {"decoder/extra/weight": "decoder/embeddings/weight"})))


def _starts_of_variables(data: bytes, variables: Variables) -> list[int]:
    return [data.index(_string(name) + struct.pack("<B", values.ndim)) for name, (_, values) in variables.items()]


def test_a_cut_file_is_an_error_everywhere(variables: Variables, tmp_path: Path) -> None:
    data = _file(variables)
    rng = random.Random(3)
    cuts = {0, 1, 3, 4, 5, 6, 12, 17, 18, 22, 25, 26, len(data) - 1, len(data) - 20, len(data) - 60}
    for start in rng.sample(_starts_of_variables(data, variables), 15):
        cuts |= {start, start + 1, start + rng.randrange(2, 60)}
    cuts |= {rng.randrange(len(data)) for _ in range(30)}
    path = _folder(tmp_path, data) / "model.bin"
    for cut in sorted(cuts, reverse=True):
        with open(path, "r+b") as file:
            file.truncate(cut)
        with pytest.raises(ModelFormatError) as caught:
            open_ctranslate2(tmp_path)
        assert caught.value.offset <= cut and caught.value.path == str(path)


def test_bytes_after_the_end(variables: Variables, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="end of the file is 1 bytes away"):
        open_ctranslate2(_folder(tmp_path, _file(variables) + b"\0"))


def test_a_variable_twice(variables: Variables, tmp_path: Path) -> None:
    data = _file({"encoder/num_heads": variables["encoder/num_heads"]}, {})
    start = data.index(_string("encoder/num_heads"))
    twice = data[: start - 4] + struct.pack("<I", 2) + 2 * data[start:-4] + data[-4:]
    with pytest.raises(ModelFormatError, match="variable 1 name is encoder/num_heads again"):
        open_ctranslate2(_folder(tmp_path, twice))


def test_flipped_bits_in_headers_are_model_errors_or_harmless(variables: Variables, tmp_path: Path) -> None:
    """Some flips give another whole file: a revision, a name in the ignored ones. None gives any other error."""
    data = bytearray(_file(variables))
    rng = random.Random(4)
    path = _folder(tmp_path, bytes(data)) / "model.bin"
    places = [rng.randrange(26) for _ in range(40)]
    for name, (_, values) in variables.items():
        start = data.index(_string(name) + struct.pack("<B", values.ndim))
        header = 2 + len(name) + 1 + 1 + 4 * values.ndim + 1 + 4
        places += [start + rng.randrange(header) for _ in range(3)]
        places += [start + rng.randrange(2)]
    places += [len(data) - 1 - rng.randrange(60) for _ in range(30)]
    n_refused = 0
    with open(path, "r+b") as file:
        for at in places:
            for value in (data[at] ^ (1 << rng.randrange(8)), 0xFF):
                file.seek(at)
                file.write(bytes([value]))
                file.flush()
                try:
                    open_ctranslate2(tmp_path)
                except ModelError:
                    n_refused += 1
                file.seek(at)
                file.write(data[at : at + 1])
                file.flush()
    assert n_refused > 1.8 * len(places)


def test_huge_numbers_cost_no_memory(tmp_path: Path) -> None:
    head = struct.pack("<I", 6) + _string("WhisperSpec") + struct.pack("<I", 3)
    big = 2**32 - 1
    for rest in (
        struct.pack("<I", big),
        struct.pack("<I", 1) + struct.pack("<H", 65535) + b"a" * 100,
        struct.pack("<I", 1) + _string("a") + struct.pack("<B", 255) + b"\xff" * 1020,
        struct.pack("<I", 1) + _string("a") + struct.pack("<B4IBI", 4, big, big, big, big, 0, big),
        struct.pack("<I", 1) + _string("a") + struct.pack("<BIBI", 1, big // 4, 0, big // 4 * 4),
        struct.pack("<I", 1) + _string("a") + struct.pack("<B4IBI", 4, 0, big, big, big, 0, 0) + struct.pack("<I", big),
        struct.pack("<II", 0, big),
        struct.pack("<II", 0, 0),
    ):
        with pytest.raises(ModelFormatError):
            open_ctranslate2(_folder(tmp_path, head + rest))


# ---- The real package ------------------------------------------------------------------------------------------------


def _whisper_spec(weights: Values, dims: Dims) -> Any:
    """A specification of the installed ctranslate2 with our weights in it."""
    specs = pytest.importorskip("ctranslate2.specs")
    spec = specs.WhisperSpec(dims.n_audio_layer, dims.n_audio_head, dims.n_text_layer, dims.n_text_head)
    for name, values in _floats(weights, dims).items():
        *scope, leaf = name.split("/")
        item = spec
        for part in scope:
            stem, _, number = part.rpartition("_")
            item = getattr(item, part) if hasattr(item, part) else getattr(item, stem)[int(number)]
        setattr(item, leaf, values.copy())
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.register_vocabulary(_tokens(dims.n_vocab))
    spec.validate()
    return spec


@pytest.mark.parametrize("quantization", [None, "float16", "bfloat16", "int8", "int8_float16", "int8_bfloat16"])
def test_files_of_the_package_have_the_values_it_stored(
    quantization: Optional[str], weights: Values, tmp_path: Path
) -> None:
    if quantization and "bfloat16" in quantization:
        pytest.importorskip("torch")
    spec = _whisper_spec(weights, DIMS)
    spec.optimize(quantization)
    spec.save(str(tmp_path))
    source = open_source(tmp_path)
    assert source.dims == DIMS and source.vocabulary == known_vocabulary(51865)
    matrix = (quantization or "float32").split("_")[0]
    other = (quantization or "float32").split("_")[-1]
    other = "float32" if other == "int8" else other
    own = open_ctranslate2(_folder(tmp_path / "own", _file(_variables(weights, DIMS, matrix, other))))
    for tensor, ours in zip(source.tensors, own.tensors):
        assert (tensor.name, tensor.type) == (ours.name, ours.type)
        expected = _values(ours) if tensor.type == "i8" else weights[tensor.name]
        assert np.array_equal(_values(tensor), expected), tensor.name


def test_int16_of_the_package_is_refused(tmp_path: Path) -> None:
    spec = _whisper_spec(_weights(ENGLISH), ENGLISH)
    spec.optimize("int16")
    spec.save(str(tmp_path))
    with pytest.raises(UnsupportedModelError, match="int16"):
        open_source(tmp_path)


def test_the_package_reads_the_files_of_our_writer(variables: Variables, tmp_path: Path) -> None:
    """So that what the tests above build is CTranslate2's format and not our idea of it."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    _folder(tmp_path, _file(variables), json.dumps(_tokens(51864)))
    model = ctranslate2.models.Whisper(str(tmp_path), device="cpu", compute_type="int8")
    assert not model.is_multilingual and model.n_mels == 80
