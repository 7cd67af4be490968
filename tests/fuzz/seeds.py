"""Writes the seeds of the corpus: small inputs made by hand, named by what they are. ``python tests/fuzz/seeds.py``.

Those that begin with ``whole`` are models that the reader takes; ``tests/house/test_fuzz.py`` holds it to that.
"""

from __future__ import annotations

import json
import struct
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz.pieces import CUT, DROP, ERASE, HOLE, INSERT, REPEAT, REPLACE, SWAP
from tests.fuzz.targets import FILE_NAMES, HF_FILES, checkpoint_pieces, ct2_pieces, hf_files, zip_pieces
from tests.support.torch_files import Raw, Tensor, dump, pickle_of

CORPUS = Path(__file__).resolve().parent / "corpus"

Seeds = dict[str, bytes]

_HUGE = b"\xff\xff\xff\x7f"
_NEGATIVE = b"\xff\xff\xff\xff"


def _edit(operation: int, piece: int, offset: int = 0, data: bytes = b"") -> bytes:
    return struct.pack("<BBHB", operation, piece, offset, len(data)) + data


# ---- ggml ------------------------------------------------------------------------------------------------------------

_HEADER = ("n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx", "n_text_state")
_HEADER += ("n_text_head", "n_text_layer", "n_mels", "ftype", "n_mel", "n_fft")


def _model_file() -> Seeds:
    seeds = {f"whole-{base}": b"W" + bytes([base]) for base in range(5)}
    seeds |= {f"table-{base}": b"T" + bytes([base]) for base in range(5)}
    for index, field in enumerate(_HEADER):
        at = 4 + 4 * index
        seeds[f"{field}-huge"] = b"H\0" + _edit(REPLACE, 0, at, _HUGE)
        seeds[f"{field}-one-more"] = b"H\1" + _edit(REPLACE, 0, at, b"\x01")
    for name, start in (("gguf", b"GGUF"), ("zip", b"PK\x03\x04"), ("safetensors", b'\x08\0\0\0\0\0\0\0{"a":1}')):
        seeds[f"raw-{name}"] = b"R" + start
    seeds["raw-empty"] = b"R"
    seeds["tokens-negative"] = b"H\0" + _edit(REPLACE, 1, 0, _NEGATIVE)
    seeds["token-too-long"] = b"H\0" + _edit(REPLACE, 1, 4, b"\x01\x01\0\0")
    seeds["token-with-bytes"] = b"H\0" + _edit(REPLACE, 1, 4, b"\x03\0\0\0") + _edit(INSERT, 1, 8, b"abc")
    seeds["mel-nan"] = b"H\0" + _edit(INSERT, 0, 56, b"\0\0\xc0\x7f")
    for field, at in (("n-dims", 0), ("name-length", 4), ("type", 8), ("dims", 12)):
        for name, value in (("huge", _HUGE), ("negative", _NEGATIVE), ("two", b"\x02\0\0\0")):
            seeds[f"tensor-{field}-{name}"] = b"T\1" + _edit(REPLACE, 4, at, value)
    seeds["tensor-padded-with-ones"] = b"T\0" + _edit(REPLACE, 6, 0, b"\x02") + _edit(INSERT, 6, 16, b"\x01\0\0\0")
    seeds["tensor-other-name"] = b"T\0" + _edit(REPLACE, 6, 20, b"x")
    seeds["tensor-data-short"] = b"T\0" + _edit(HOLE, 3, 0, b"\x10\0\0")
    seeds["tensor-data-huge"] = b"T\0" + _edit(HOLE, 3, 0, b"\xff\xff\xff\xff\xff")
    seeds |= _moved_pieces(b"T\2", piece=5)
    seeds["whole-file-cut"] = b"W\0" + _edit(CUT, 20, 9)
    seeds["whole-file-and-more"] = b"W\0" + _edit(HOLE, 255, 0, b"\x01")
    return seeds


def _moved_pieces(start: bytes, piece: int) -> Seeds:
    return {
        "piece-missing": start + _edit(DROP, piece),
        "piece-twice": start + _edit(REPEAT, piece),
        "pieces-swapped": start + _edit(SWAP, piece, piece + 1),
        "piece-cut": start + _edit(CUT, piece, 7),
        "piece-shorter": start + _edit(ERASE, piece, 3, b"\0\0"),
    }


# ---- Pickles and torch files -----------------------------------------------------------------------------------------

_HEADS = Tensor("0", "f16", 24 * 64, 0, (2, 3), (3, 1))
_TENSOR = Tensor("0", "f32", 24, 0, (3, 4), (4, 1))


def _pickles() -> Seeds:
    """Of what a zip with the storages 0 (96 bytes) and 1 (none) can hold."""
    metadata = dump(OrderedDict()) + b"}" + dump("_metadata") + dump({"": 1}) + b"sb"
    protocol4 = b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R."
    return {
        "whole-dict": pickle_of({"a": 1, "b": [1.5, None, True], "c": ("x", -3)}),
        "whole-tensor": pickle_of({"w": _TENSOR}),
        "whole-transposed": pickle_of({"w": _TENSOR._replace(size=(4, 3), stride=(1, 4), offset=12)}),
        "whole-one-value": pickle_of({"w": _TENSOR._replace(size=(64, 8), stride=(0, 0))}),
        "whole-scalar": pickle_of([_TENSOR._replace(size=(), stride=()), _TENSOR._replace(size=(0,), stride=(1,))]),
        "whole-empty-storage": pickle_of({"w": Tensor("1", "f16", 0, 0, (0, 5), (5, 1))}),
        "whole-state": pickle_of(OrderedDict(w=_TENSOR, x=_TENSOR._replace(offset=12))),
        "whole-metadata": b"\x80\x02" + metadata + b".",
        "whole-protocol-4": protocol4,
        "whole-memo": b"\x80\x02](X\x01\0\0\0aq\0h\0r\x05\x01\0\0j\x05\x01\0\0e.",
        "whole-parameter": pickle_of(
            {"w": Raw(b"ctorch._utils\n_rebuild_parameter\n" + dump((_TENSOR, True, OrderedDict())) + b"R")}
        ),
        "whole-ints": b"\x80\x02(K\x01M\x02\x01J\xff\xff\xff\xff\x8a\x08" + b"\x7f" * 8 + b"\x8a\0t.",
        "unsafe-global": b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.",
        "unsafe-global-of-stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.",
        "unsafe-opcode": b"\x80\x02(ios\nsystem\n.",
        "unsafe-extension": b"\x80\x02\x84\x01\0\0\0.",
        "unsafe-call-of-storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
        "holds-itself": b"\x80\x02]q\0h\0a.",
        "deep": b"\x80\x02" + b"]" * 70 + b"a" * 69 + b".",
        "many-marks": b"\x80\x02" + b"(" * 300 + b".",
        "long-number": b"\x80\x02\x8a\x09" + b"\xff" * 9 + b".",
        "long-text": b"\x80\x02\x8d" + b"\xff" * 8 + b".",
        "no-utf8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
        "whole-text-with-escapes": pickle_of({"\x1b[2J\n": 1}),
        "key-twice": b"\x80\x02}(K\x01K\x02K\x01K\x03u.",
        "list-as-key": b"\x80\x02}(]K\x01u.",
        "memo-never-stored": b"\x80\x02h\x07.",
        "more-than-one": b"\x80\x02K\x01K\x02.",
        "whole-lists-in-lists": b"\x80\x02" + _lists_in_lists(50) + b".",
        "bytes-after-the-end": b"\x80\x02K\x01.K",
        "frame-too-long": b"\x80\x04\x95\xff\0\0\0\0\0\0\0N.",
        "tensor-past-its-storage": pickle_of({"w": _TENSOR._replace(offset=13)}),
        "tensor-of-huge-stride": pickle_of({"w": _TENSOR._replace(stride=(2**62, 1))}),
        "tensor-of-huge-size": pickle_of({"w": _TENSOR._replace(size=(2**40, 2**40), stride=(0, 0))}),
        "tensor-of-negative-size": pickle_of({"w": _TENSOR._replace(size=(-1, 4))}),
        "storage-missing": pickle_of({"w": _TENSOR._replace(key="7")}),
        "storage-of-two-types": pickle_of([_TENSOR, _TENSOR._replace(type="i64", n_values=12)]),
        "storage-too-large": pickle_of({"w": _TENSOR._replace(n_values=2**61)}),
        "dict-with-a-name": pickle_of({"w": Raw(b"ctorch\nFloatStorage\n")}),
    }


def _only_in_zips(name: str) -> bool:
    """Seeds whose fault only the storages in the zip show; the pickle alone is whole."""
    return name.startswith(("tensor-past", "tensor-of-huge", "storage-"))


def _pickle() -> Seeds:
    return {(f"whole-{name}" if _only_in_zips(name) else name): data for name, data in _pickles().items()}


def _zip64(off_by: int) -> bytes:
    """A torch file whose directory has its numbers in zip64's records only."""
    pieces = [piece.data for piece in zip_pieces(False)]
    n_entries = len(pieces) // 2
    files, entries = b"".join(pieces[:n_entries]), []
    for entry in pieces[n_entries:-1]:
        size, name_bytes = entry[24:28], int.from_bytes(entry[28:30], "little")
        field = struct.pack("<2H4s4s4s4s", 1, 16, size, bytes(4), size, bytes(4))
        wide = entry[:20] + b"\xff" * 8 + entry[28:30] + struct.pack("<H", len(field)) + entry[32:]
        entries.append(wide[: 46 + name_bytes] + field + wide[46 + name_bytes :])
    directory = b"".join(entries)
    end64_at = len(files) + len(directory) + off_by
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n_entries, n_entries, len(directory), len(files))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end64_at, 1)
    return files + directory + end64 + locator + b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + bytes(2)


def _torch_zip() -> Seeds:
    seeds = {f"stored-{name}": b"P" + data for name, data in _pickles().items()}
    seeds = {name.replace("stored-whole", "whole-stored"): data for name, data in seeds.items()}
    seeds["whole-deflated"] = b"D" + _pickles()["whole-transposed"]
    seeds["whole-deflated-in-order"] = b"D" + _pickles()["whole-tensor"]
    waste = {"w": Tensor("0", "f32", 24, 0, (2,), (23,))}
    seeds["whole-first-and-last"] = b"P" + pickle_of(waste)
    seeds["whole-zip"], seeds["whole-zip-deflated"] = b"\0", b"\1"
    seeds["whole-raw"] = b"R" + b"".join(piece.data for piece in zip_pieces(False))
    seeds["raw-legacy"] = b"R\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    seeds["raw-empty"] = b"R"
    last = len(zip_pieces(False)) - 1  # the record at the end; the directory begins in the middle
    for name, at in (
        ("method", 10),
        ("crc", 16),
        ("packed", 20),
        ("size", 24),
        ("name", 28),
        ("extra", 30),
        ("at", 42),
    ):
        seeds[f"directory-{name}"] = b"\0" + _edit(REPLACE, last // 2, at, b"\x55")
        seeds[f"directory-{name}-absent"] = b"\1" + _edit(REPLACE, last // 2, at, b"\xff\xff\xff\xff")
    for name, at in (("disk", 4), ("entries", 8), ("bytes", 12), ("offset", 16), ("comment", 20)):
        seeds[f"end-{name}"] = b"\0" + _edit(REPLACE, last, at, b"\xff\xff\xff\xff")
    seeds["whole-zip64"], seeds["zip64-locator-elsewhere"] = b"R" + _zip64(0), b"R" + _zip64(9)
    seeds["local-name"] = b"\0" + _edit(REPLACE, 0, 30, b"x")
    seeds["local-method"] = b"\0" + _edit(REPLACE, 1, 8, b"\x08")
    seeds["deflated-damaged"] = b"\1" + _edit(REPLACE, 0, 50, b"\0\xff\0")
    return seeds | _moved_pieces(b"\0", piece=3)


# ---- OpenAI's checkpoints --------------------------------------------------------------------------------------------


def _lists_in_lists(n_levels: int) -> bytes:
    """Opcodes of lists that hold the one before twice: a few bytes, and a text of 2 ** n_levels lists."""
    levels = b"".join(b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(n_levels))
    return b"](]q\0" + levels + b"e"


def _openai() -> Seeds:
    pieces = checkpoint_pieces()
    n_dims = 10
    first, last = n_dims + 2, len(pieces) - 2
    seeds = {"whole": b""}
    for index in range(1, n_dims + 1):
        at = len(pieces[index].data) - 1
        seeds[f"dimension-{index}-other"] = _edit(REPLACE, index, at, b"\x07")
        seeds[f"dimension-{index}-missing"] = _edit(DROP, index)
    seeds["dimension-true"] = _edit(REPLACE, 5, len(pieces[5].data) - 3, b"\x88NN")
    tensor = pieces[first].data
    for name, value in (("FloatStorage", b"CharStorage\n"), ("data", b"0")):
        at = tensor.find(b"HalfStorage\n") if name == "FloatStorage" else tensor.find(b"K")
        seeds[f"tensor-{name}"] = _edit(REPLACE, first, max(at, 0), value)
    seeds["tensor-name"] = _edit(REPLACE, first, 6, b"x")
    seeds["tensor-name-with-escapes"] = _edit(REPLACE, first, 6, b"\x1b[2J")
    seeds["dimension-of-lists"] = _edit(ERASE, 1, len(pieces[1].data) - 3, bytes(3))
    seeds["dimension-of-lists"] += _edit(INSERT, 1, len(pieces[1].data) - 3, _lists_in_lists(24))
    seeds["tensor-transposed"] = _edit(ERASE, first, len(tensor) - 40, b"0")
    seeds["tensor-missing"] = _edit(DROP, last)
    seeds["tensor-twice"] = _edit(REPEAT, last)
    seeds["whole-tensors-swapped"] = _edit(SWAP, first, last)
    seeds["cut"] = _edit(CUT, last, 30)
    seeds["whole-and-alignment-heads"] = _edit(INSERT, last + 1, 0, dump("alignment_heads") + dump(_HEADS))
    seeds["whole-and-more"] = _edit(INSERT, last + 1, 1, dump("epoch") + dump(3))
    seeds["value-no-tensor"] = _edit(INSERT, last + 1, 0, dump("x") + dump(3))
    seeds["names-of-huggingface"] = _edit(REPLACE, 0, 2, b".") + _edit(CUT, 0, 3)
    return seeds


# ---- safetensors and the folders of Hugging Face ---------------------------------------------------------------------


def _header(**tensors: object) -> bytes:
    return json.dumps(tensors, separators=(",", ":")).encode()


def _entry(dtype: object = "F32", shape: object = (2, 3), begin: object = 0, end: object = 24) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _safetensors() -> Seeds:
    return {
        "whole": _header(a=_entry(), b=_entry("BF16", (4,), 24, 32), __metadata__={"format": "pt"}),
        "whole-without-axes": _header(a=_entry("I64", (), 0, 8)),
        "whole-empty": b"{}",
        "whole-empty-tensor": _header(a=_entry("F16", (0, 9), 0, 0)),
        "whole-raw": b"R\x02\0\0\0\0\0\0\0{}",
        "raw-short": b"R\x02\0\0",
        "raw-huge-header": b"R" + b"\xff" * 8 + b"{}",
        "dtype-unknown": _header(a=_entry("F8_E4M3")),
        "dtype-list": _header(a=_entry(["F32"])),
        "shape-negative": _header(a=_entry("F32", (-2, -3))),
        "shape-huge": _header(a=_entry("F32", (2**40,) * 8)),
        "shape-true": _header(a=_entry("F32", (True, 6))),
        "shape-many-axes": _header(a=_entry("U8", (1,) * 99, 0, 1)),
        "offsets-backwards": _header(a=_entry("F32", (2, 3), 24, 0)),
        "offsets-overlap": _header(a=_entry(), b=_entry("F32", (2, 3), 8, 32)),
        "offsets-hole": _header(a=_entry(), b=_entry("F32", (1,), 28, 32)),
        "offsets-huge": _header(a=_entry("F32", (2, 3), 10**19, 10**19 + 24)),
        "number-of-many-digits": b'{"a":{"dtype":"F32","shape":[' + b"1" * 4000 + b'],"data_offsets":[0,24]}}',
        "key-twice": b'{"a":{},"a":{}}',
        "name-with-escapes": b'{"\\u001b[2J\\n":{"dtype":"F3"}}',
        "name-surrogate": b'{"\\ud800":{}}',
        "deep": b'{"a":' + b"[" * 2000,
        "metadata-number": _header(__metadata__={"a": 1}),
        "nan": b'{"a":NaN}',
        "list": b"[]",
        "no-utf8": b'{"\xff":{}}',
    }


def _huggingface() -> Seeds:
    def put(name: str, content: object) -> bytes:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return bytes([HF_FILES.index(name)]) + data

    config, header = json.loads(hf_files()["config.json"]), hf_files()["model.safetensors"]
    weight_map = dict.fromkeys(json.loads(header), "part-1.safetensors")
    name = next(iter(weight_map))
    small_header = json.loads(header)
    positions = small_header.pop("model.encoder.embed_positions.weight")["data_offsets"]
    shift = positions[1] - positions[0]
    for entry in small_header.values():
        if entry["data_offsets"][0] >= positions[1]:
            entry["data_offsets"] = [at - shift for at in entry["data_offsets"]]
    output = json.loads(header)
    embedding = output["model.decoder.embed_tokens.weight"]
    n_bytes, end = 2 * 51864 * 64, max(entry["data_offsets"][1] for entry in output.values())
    own = {**output, "proj_out.weight": {**embedding, "data_offsets": [end, end + n_bytes]}}
    only = {name.replace("model.decoder.embed_tokens", "proj_out"): entry for name, entry in output.items()}
    seeds = {
        "whole-output-layer": put("model.safetensors", own),
        "whole-only-output-layer": put("model.safetensors", only),
        "output-layer-of-ints": put("model.safetensors", {**own, "proj_out.weight": {**embedding, "dtype": "I16"}}),
        "weights-of-ints": put("model.safetensors", header.replace(b"F16", b"I16")),
        "whole-weights-of-bf16": put("model.safetensors", header.replace(b"F16", b"BF16", 1)),
        "whole-config": put("config.json", config),
        "whole-weights": put("model.safetensors", header),
        "whole-index": put("model.safetensors.index.json", {"weight_map": weight_map}),
        "whole-part": put("part-1.safetensors", header),
        "whole-without-positions": put("model.safetensors", small_header),
        "whole-filters": put("preprocessor_config.json", {"mel_filters": [[0.5] * 3] * 2}),
        "whole-filters-none": put("preprocessor_config.json", {}),
        "whole-adapter-beside": put("adapter_config.json", {}),
        "vocabulary-small": put("vocab.json", {"a": 0, "b": 1, "<|endoftext|>": 2}),
        "vocabulary-id-twice": put("vocab.json", {"a": 0, "b": 0}),
        "vocabulary-ids-no-numbers": put("vocab.json", {"a": [0], "b": "1"}),
        "vocabulary-with-a-hole": put("vocab.json", {"a": 0, "c": 2}),
        "vocabulary-foreign-character": put("vocab.json", {"\u2603": 0}),
        "vocabulary-escapes": put("vocab.json", {"\x1b[2J": -1}),
        "added-other-id": put("added_tokens.json", {"a": 7}),
        "added-list": put("added_tokens.json", {"<|x|>": [1]}),
        "tokenizer": put("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}}}),
        "tokenizer-no-model": put("tokenizer.json", {"model": 3}),
        "tokenizer-added": put(
            "tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [{"id": 7, "content": "<|en|>"}]}
        ),
        "whole-generation": put("generation_config.json", {"lang_to_id": {"<|en|>": 50258}, "eos_token_id": [1]}),
        "generation-shifted": put("generation_config.json", {"task_to_id": {"translate": 50360}}),
        "generation-list": put("generation_config.json", {"lang_to_id": [1]}),
        "whole-decoder": put(
            "tokenizer_config.json", {"added_tokens_decoder": {"50256": {"content": "<|endoftext|>"}}}
        ),
        "decoder-escapes": put("tokenizer_config.json", {"added_tokens_decoder": {"51000": {"content": "\x1b[2J"}}}),
        "tokenizer-vocab-list": put("tokenizer.json", {"model": {"vocab": []}}),
        "filters-long-number": put("preprocessor_config.json", b'{"mel_filters":[[1e999,' + b"9" * 30 + b"]]}"),
        "whole-filters-ragged": put("preprocessor_config.json", {"mel_filters": [[1], [1, 2]]}),
        "index-elsewhere": put("model.safetensors.index.json", {"weight_map": {name: "../part-1.safetensors"}}),
        "index-missing-shard": put("model.safetensors.index.json", {"weight_map": {name: "part-2.safetensors"}}),
        "index-of-one": put("model.safetensors.index.json", {"weight_map": {name: "part-1.safetensors"}}),
        "index-list": put("model.safetensors.index.json", {"weight_map": [1]}),
        "index-file-no-text": put("model.safetensors.index.json", {"weight_map": {name: 1}}),
        "pickle-dict": put("pytorch_model.bin", pickle_of({"model.encoder.conv1.bias": _TENSOR, "x": 1})),
        "pickle-tensors": put("pytorch_model.bin", pickle_of({"model.encoder.conv1.bias": _TENSOR})),
        "pickle-list": put("pytorch_model.bin", pickle_of([1])),
        "config-escapes": put("config.json", {**config, "model_type": "\x1b[2J\n"}),
    }
    changes: dict[str, object] = {"model_type": "bert", "quantization_config": {}, "activation_function": "relu"}
    changes |= {"scale_embedding": True, "encoder_ffn_dim": 7, "d_model": 10**30, "vocab_size": 51864.0}
    changes |= {"tie_word_embeddings": False, "encoder_layers": True, "num_mel_bins": [80], "decoder_layers": -1}
    for field, value in changes.items():
        seeds[f"config-{field}"] = put("config.json", {**config, field: value})
    return seeds


# ---- CTranslate2 -----------------------------------------------------------------------------------------------------


def _more_variables() -> Seeds:
    """A file of f16 with a variable more, before the aliases, which are left out."""
    pieces = ct2_pieces("float16")
    last = len(pieces) - 1

    def put(name: str, dims: Sequence[int], type: int, n_bytes: int, data: bytes = b"") -> bytes:
        head = struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
        head += struct.pack(f"<B{len(dims)}IBI", len(dims), *dims, type, n_bytes) + data
        n_variables = struct.pack("<I", len(pieces) - 1)
        return (
            _edit(INSERT, last - 1, len(pieces[last - 1].data), head)
            + _edit(HOLE, last - 1, 0, struct.pack("<I", n_bytes - len(data)))
            + _edit(REPLACE, 0, len(pieces[0].data) - 4, n_variables)
            + _edit(REPLACE, last, 0, bytes(4))
            + _edit(ERASE, last, 4, bytes(len(pieces[last].data) - 4))
        )

    n_embedding = 51864 * 64
    return {
        "whole-own-projection": b"\0" + put("decoder/projection/weight", (51864, 64), 4, 2 * n_embedding),
        "own-projection-of-int8": b"\0" + put("decoder/projection/weight", (51864, 64), 1, n_embedding),
        "own-projection-other": b"\0" + put("decoder/projection/weight", (51864, 64), 4, 2 * n_embedding, b"\1"),
        "whole-projection-bias": b"\0" + put("decoder/projection/bias", (51864,), 4, 2 * 51864),
        "projection-bias-not-zero": b"\0" + put("decoder/projection/bias", (51864,), 4, 2 * 51864, b"\0\1"),
        "number-of-rank-1": b"\0" + put("encoder/num_heads", (1,), 2, 2, b"\1\0"),
        "whole-number-of-bf16": b"\0" + put("encoder/num_heads", (), 5, 2, b"\x80\x3f"),
        "number-of-nan": b"\0" + put("encoder/num_heads", (), 4, 2, b"\0\x7e"),
        "number-unknown": b"\0" + put("decoder/post_norm", (), 1, 1, b"\1"),
        "whole-number-off": b"\0" + put("decoder/post_norm", (), 1, 1, b"\0"),
        "matrix-unknown": b"\0" + put("decoder/adapter/weight", (2, 2), 1, 4),
        "empty-unknown": b"\0" + put("decoder/adapter/weight", (2, 0), 1, 0),
        "rank-4": b"\0" + put("decoder/adapter/weight", (2**32 - 1,) * 4, 3, 4),
    }


def _changed_variables() -> Seeds:
    """Fields of variables by their names: the bias of a shared matrix, the type of one, the rank of another."""
    seeds = {}
    for index, piece in enumerate(ct2_pieces("float16")[1:-1], 1):
        name = piece.data[2 : 1 + piece.data[0]].decode()
        rank_at = 2 + piece.data[0]
        type_at = rank_at + 1 + 4 * piece.data[rank_at]
        if name == "decoder/layer_0/self_attention/linear_0/bias":
            seeds["key-bias"] = _edit(INSERT, index, len(piece.data), bytes(64 * 4 + 1)[:250] + b"\1")
            seeds["key-bias"] += _edit(INSERT, index, len(piece.data), bytes(249)) + _edit(HOLE, index, 0, b"\x0c\1")
        if name == "decoder/embeddings/weight":
            seeds["embeddings-of-int16"] = _edit(REPLACE, index, type_at, b"\2")
            seeds["embeddings-flat"] = _edit(REPLACE, index, rank_at, b"\1" + struct.pack("<I", 51864 * 64))
            seeds["embeddings-flat"] += _edit(ERASE, index, rank_at + 5, bytes(4))
        if name == "encoder/layer_0/ffn/linear_0/weight":
            turned = struct.pack("<2I", 64, 256)
            seeds["matrix-turned"] = _edit(REPLACE, index, rank_at + 1, turned)
            seeds["matrix-of-bf16"] = _edit(REPLACE, index, type_at, b"\5")
    seeds["whole-matrix-of-bf16"] = seeds.pop("matrix-of-bf16")
    return {name: b"\0" + edits for name, edits in seeds.items()}


def _ctranslate2() -> Seeds:
    pieces = ct2_pieces("int8")
    last = len(pieces) - 1
    seeds = {"whole-f16": b"\0", "whole-int8": b"\1"}
    for name, at in (("version", 0), ("spec-length", 4), ("spec", 6), ("revision", 18), ("count", 22)):
        seeds[f"head-{name}"] = b"\0" + _edit(REPLACE, 0, at, b"\x63")
    name_bytes = 2 + int.from_bytes(pieces[1].data[:2], "little")
    fields = (("name-length", 0), ("name", 3), ("rank", name_bytes), ("dims", name_bytes + 1))
    for name, at in (*fields, ("type", name_bytes + 13), ("bytes", name_bytes + 14)):
        seeds[f"variable-{name}"] = b"\1" + _edit(REPLACE, 1, at, b"\x02")
        seeds[f"variable-{name}-huge"] = b"\1" + _edit(REPLACE, 1, at, b"\xff\xff\xff\xff")
    seeds["data-short"] = b"\0" + _edit(HOLE, 1, 0, b"\x10")
    seeds["scale-zero"] = b"\1" + _edit(REPLACE, 2, len(pieces[2].data) - 4, bytes(4))
    seeds["scale-nan"] = b"\1" + _edit(REPLACE, 2, len(pieces[2].data) - 4, b"\0\0\xc0\x7f")
    seeds["number-other"] = b"\0" + _edit(REPLACE, last - 1, len(pieces[last - 1].data) - 1, b"\x05")
    seeds["alias-of-nothing"] = b"\1" + _edit(REPLACE, last, 40, b"x")
    seeds["alias-twice"] = b"\1" + _edit(REPLACE, last, 0, b"\x02") + _edit(INSERT, last, 4, pieces[last].data[4:])
    seeds["aliases-huge"] = b"\1" + _edit(REPLACE, last, 0, _HUGE)
    seeds |= {**_more_variables(), **_changed_variables()}
    seeds["raw"] = b"R" + pieces[0].data
    seeds["raw-empty"] = b"R"
    for name, data in (("list", b'["a", "b"]'), ("object", b"{}"), ("deep", b"[" * 2000), ("no-utf8", b"\xff")):
        seeds[f"json-vocabulary-{name}"] = b"V" + data
    seeds["config-model-type"] = b'J{"model_type":"whisper"}'
    seeds["whole-config-broken"] = b"J{"  # not needed: model.bin says what it is
    seeds["whole-text-vocabulary"] = b"Ta\nb\n"  # not used, with a note
    seeds["whole-list-vocabulary"] = seeds.pop("json-vocabulary-list")
    seeds["whole-revision"] = seeds.pop("head-revision")
    seeds |= _moved_pieces(b"\0", piece=5)
    seeds["whole-pieces-swapped"] = seeds.pop("pieces-swapped")
    return seeds


# ---- Whatever it is --------------------------------------------------------------------------------------------------


def _open_source() -> Seeds:
    def file(name: str, content: bytes) -> bytes:
        return b"S" + bytes([FILE_NAMES.index(name)]) + content

    def folder(**contents: bytes) -> bytes:
        data = b"F"
        for name, content in contents.items():
            data += struct.pack("<BH", FILE_NAMES.index(name.replace("_DOT_", ".")), len(content)) + content
        return data

    zip_ = b"".join(piece.data for piece in zip_pieces(False))
    starts = (
        b"GGUF",
        b"\x1f\x8b",
        b"BZh",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"\x89HDF",
        b"\x08\x07\x12",
        b"<!",
        b"RIFF",
    )
    seeds = {f"file-{index}": file("notes", start) for index, start in enumerate(starts)}
    config = hf_files()["config.json"]
    head = ct2_pieces("int8")[0].data
    return seeds | {
        "file-empty": file("notes", b""),
        "file-lfs": file("model.bin", b"version https://git-lfs.github.com/spec/v1\n"),
        "file-tar": file("base.pt", bytes(257) + b"ustar"),
        "file-safetensors": file("model.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
        "file-zip": file("base.pt", zip_),
        "file-legacy": file("base.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."),
        "file-ggml": file("ggml-base.bin", b"lmgg\x98\xca\0\0"),
        "file-onnx": file("model.onnx", b"abc"),
        "file-ctranslate2": file("model.bin", head),
        "folder-empty": b"F",
        "folder-huggingface": folder(config_DOT_json=config, model_DOT_safetensors=b"\x02\0\0\0\0\0\0\0{}"),
        "folder-huggingface-zip": folder(config_DOT_json=config, pytorch_model_DOT_bin=zip_),
        "folder-ctranslate2": folder(config_DOT_json=b"{}", model_DOT_bin=head),
        "folder-ctranslate2-zip": folder(config_DOT_json=b"{}", model_DOT_bin=zip_),
        "folder-one-model": folder(base_DOT_pt=zip_, README_DOT_md=b"# Model"),
        "folder-two-models": folder(base_DOT_pt=zip_, model_DOT_bin=b"lmgg"),
        "folder-adapter": folder(adapter_config_DOT_json=b"{}"),
        "whole-huggingface": b"H",
        "whole-ctranslate2": b"C",
        "whole-openai-in-a-folder": b"P",
        "whole-huggingface-filters": b"H" + folder(preprocessor_config_DOT_json=b'{"mel_filters":[[2]]}')[1:],
        "whole-huggingface-with-model-bin": b"H" + folder(model_DOT_bin=b"GGUF")[1:],
        "whole-ctranslate2-vocabulary": b"C" + folder(vocabulary_DOT_json=b'["a"]')[1:],
        "openai-and-another": b"P" + folder(model_DOT_bin=zip_)[1:],
        "folder-nothing": folder(notes=b"", README_DOT_md=b"x"),
    }


SEEDS = {
    "model_file": _model_file,
    "pickle": _pickle,
    "torch_zip": _torch_zip,
    "openai": _openai,
    "safetensors": _safetensors,
    "huggingface": _huggingface,
    "ctranslate2": _ctranslate2,
    "open_source": _open_source,
}


def main() -> None:
    for target, make in SEEDS.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in make().items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
