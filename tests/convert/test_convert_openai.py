"""OpenAI checkpoints, read without torch and without trust: the pickle, the zip around it, and the model in them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt
import pytest
from whisperq_edge._convert.readers.openai import is_torch_file, open_openai, write_openai
from whisperq_edge._convert.readers.pickle_reader import PickledTensor, StorageRef, read_pickle
from whisperq_edge._convert.readers.source import Source, SourceTensor
from whisperq_edge._convert.readers.torch_file import TorchTensor, read_torch_file
from whisperq_edge._errors import (
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    OptionError,
    UnsafeModelError,
    UnsupportedModelError,
)

from tests.support.make_model import PRESETS, write_nano_checkpoint
from tests.support.torch_files import (
    STORAGE_NAMES,
    Raw,
    Tensor,
    dump,
    pickle_of,
    random_state,
    write_checkpoint,
    write_torch_zip,
)

# Over name, type, shape and values of all tensors of the checkpoint that the training of nano exported.
NANO_CHECKPOINT_SHA256 = "63c03c0768e0d41f28b3a080f46df0a2891f77af309b28ab6d0d10b71aad5cba"
MICRO = PRESETS["micro"]
DIMS = MICRO._asdict()

Floats = npt.NDArray[np.float16]


@pytest.fixture(scope="module")
def micro_state() -> dict[str, Floats]:
    return random_state(MICRO)


@pytest.fixture(scope="module")
def micro_pt(tmp_path_factory: pytest.TempPathFactory, micro_state: dict[str, Floats]) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("openai") / "micro.pt", DIMS, micro_state)


def read(data: bytes) -> object:
    return read_pickle(data, Path("some.pt"), lambda tensor: tensor, 0)


def values_of(tensor: SourceTensor | TorchTensor) -> bytes:
    n_rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
    return tensor.read_rows(0, n_rows)


# ---- Pickles: what is allowed ----------------------------------------------------------------------------------------

PLAIN = {
    "texts": ["", "a", "naïve", "x" * 300],
    "numbers": [0, 1, -1, 255, 256, 65535, 65536, -(2**31), 2**31, 2**40, -(2**63), 1.5, float("inf")],
    "others": (None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, [[]]),
    "ordered": OrderedDict([("b", 1), ("a", 2)]),
    7: "a number as key",
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back(protocol: int) -> None:
    many = {**PLAIN, "many": [str(i) for i in range(3000)]}  # more than one batch, more than 256 memo items
    found = read(pickle.dumps(many, protocol))
    assert found == many
    assert isinstance(found, dict) and isinstance(found["ordered"], OrderedDict)
    assert [type(x) for x in found["others"]] == [type(x) for x in PLAIN["others"]]  # type: ignore[attr-defined]


def test_the_crafted_pickles_are_pickles() -> None:
    assert pickle.loads(pickle_of(PLAIN)) == PLAIN == read(pickle_of(PLAIN))


def test_one_object_in_two_places() -> None:
    shared = [1]
    assert read(pickle.dumps([shared, shared], 2)) == [[1], [1]]
    laughs: object = "ha"
    for _ in range(40):  # 2**40 paths through it
        laughs = [laughs, laughs]
    assert isinstance(read(pickle.dumps(laughs, 2)), list)


@pytest.mark.parametrize("type_", STORAGE_NAMES)
def test_a_tensor_of_each_type(type_: str) -> None:
    found = read(pickle_of(Tensor("5", type_, 12, 2, (3, 2), (2, 1))))
    assert isinstance(found, PickledTensor)
    assert (found.storage, found.offset, found.size, found.stride) == (StorageRef(type_, "5", 12), 2, (3, 2), (2, 1))


def test_a_parameter_is_its_tensor() -> None:
    tensor = dump(Tensor("0", "f32", 1, 0, (1,), (1,)))
    call = b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88" + dump(OrderedDict()) + b"tR"
    found = read(b"\x80\x02" + call + b".")
    assert isinstance(found, PickledTensor)
    assert found.storage == StorageRef("f32", "0", 1)


def test_metadata_of_a_state_dict_is_ignored() -> None:
    state = dump(OrderedDict(a=1)) + dump({"_metadata": OrderedDict({"": {"version": 1}})}) + b"b"
    assert read(b"\x80\x02" + state + b".") == {"a": 1}


def test_newobj_of_an_ordered_dict() -> None:
    assert read(b"\x80\x02ccollections\nOrderedDict\n)\x81.") == OrderedDict()


# ---- Pickles: what is refused ----------------------------------------------------------------------------------------

A_TENSOR = dump(Tensor("0", "f32", 1, 0, (1,), (1,)))
TEXT_CALL = dump(("echo",)) + b"R"

UNSAFE = {
    "GLOBAL": (b"cposix\nsystem\n" + TEXT_CALL, "posix.system"),
    "GLOBAL not called": (b"cos\nsystem\n", "os.system"),
    "STACK_GLOBAL": (dump("nt") + dump("system") + b"\x93" + TEXT_CALL, "nt.system"),
    "STACK_GLOBAL from the memo": (
        dump("builtins") + b"\x94" + dump("eval") + b"\x94h\x00h\x01\x93" + TEXT_CALL,
        "builtins.eval",
    ),
    "a dotted name": (dump("collections") + dump("OrderedDict.fromkeys") + b"\x93", "collections.OrderedDict.fromkeys"),
    "a name of ours in another module": (b"cevil\nOrderedDict\n", "evil.OrderedDict"),
    "INST": (b"(" + dump("echo") + b"iposix\nsystem\n", "posix.system"),
    "OBJ": (b"(ccollections\nOrderedDict\no", "OBJ"),
    "EXT1": (b"\x82\x07", "7 of the extension registry with the opcode EXT1"),
    "EXT2": (b"\x83\x07\x01", "263 of the extension registry with the opcode EXT2"),
    "EXT4": (b"\x84\x07\x00\x00\x00", "EXT4"),
    "NEWOBJ": (b"cbuiltins\nobject\n)\x81", "builtins.object"),
    "NEWOBJ of a storage type": (b"ctorch\nFloatStorage\n)\x81", "torch.FloatStorage"),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92", "NEWOBJ_EX"),
    "REDUCE of a storage type": (b"ctorch\nFloatStorage\n" + dump((1,)) + b"R", "torch.FloatStorage"),
    "REDUCE of a text": (dump("eval") + TEXT_CALL, "'eval'"),
    "load from bytes": (b"ctorch.storage\n_load_from_bytes\n" + TEXT_CALL, "torch.storage._load_from_bytes"),
    "untyped storage": (b"ctorch.storage\nUntypedStorage\n", "torch.storage.UntypedStorage"),
    "another rebuild": (
        b"ctorch._utils\n_rebuild_parameter_with_state\n",
        "torch._utils._rebuild_parameter_with_state",
    ),
    "getattr": (b"c__builtin__\ngetattr\n", "__builtin__.getattr"),
    "numpy": (b"cnumpy.core.multiarray\nscalar\n", "numpy.core.multiarray.scalar"),
    "BUILD on a dict": (b"}" + dump({"a": 1}) + b"b", "BUILD"),
    "BUILD on a list": (b"]" + dump({"a": 1}) + b"b", "BUILD"),
    "BUILD on a tensor": (A_TENSOR + dump({"a": 1}) + b"b", "BUILD"),
    "BUILD on a name": (b"ccollections\nOrderedDict\n" + dump({"a": 1}) + b"b", "BUILD"),
    "BUILD with slots": (dump(OrderedDict()) + dump((None, {"a": 1})) + b"b", "BUILD"),
    "PERSID": (b"Pkey\n", "PERSID"),
    "bytes": (b"C\x01a", "SHORT_BINBYTES"),
    "a set": (b"\x8f", "EMPTY_SET"),
    "an old text": (b"S'a'\n", "STRING"),
    "an old number": (b"I" + b"9" * 100_000 + b"\n", "INT"),
    "POP": (b"N0", "POP"),
    "terminal codes in a name": (b"cevil\x1b[2J\nname\n", "evil\\x1b[2J.name"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_more_than_tensors_is_refused_by_its_name(case: str) -> None:
    opcodes, name = UNSAFE[case]
    with pytest.raises(UnsafeModelError) as caught:
        read(b"\x80\x02" + opcodes + b".")
    assert name in str(caught.value) and "some.pt" in str(caught.value)
    assert str(caught.value).isprintable()


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f'echo ran > "{self.marker}"',)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps({"dims": DIMS, "model_state_dict": {"a": Evil(marker)}}, protocol)
    path = write_torch_zip(tmp_path / "evil.pt", Raw(data))
    with pytest.raises(UnsafeModelError, match=r"\.system|opcode" if protocol < 2 else r"(posix|nt)\.system"):
        open_openai(path)
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()  # so it would have


# ---- Pickles: what is damaged ----------------------------------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "nothing to stop with": b"\x80\x02.",
    "no stop": b"\x80\x02}",
    "two objects": b"\x80\x02NN.",
    "an open mark": b"\x80\x02(N.",
    "bytes after the end": b"\x80\x02N.N",
    "a future protocol": b"\x80\x09N.",
    "an unknown opcode": b"\x80\x02\xfe.",
    "a tuple without its mark": b"\x80\x02Nt.",
    "a pair of one": b"\x80\x02N\x86.",
    "items without a mark": b"\x80\x02}Nu.",
    "a key without a value": b"\x80\x02}(" + dump("a") + b"u.",
    "a key twice": b"\x80\x02" + b"}(" + dump("a") + b"N" + dump("a") + b"Nu.",
    "a list as key": b"\x80\x02}]Ns.",
    "a bool as key": b"\x80\x02}\x88Ns.",
    "items set in a list": b"\x80\x02]" + dump("a") + b"Ns.",
    "items appended to a dict": b"\x80\x02}Na.",
    "a memo item that is not there": b"\x80\x02h\x05.",
    "a memo item far away": b"\x80\x02j\xff\xff\xff\xff.",
    "memo of nothing": b"\x80\x02q\x00.",
    "a text that is cut": b"\x80\x02X\x05\x00\x00\x00ab.",
    "a text that claims 4 GB": b"\x80\x02X\xff\xff\xff\xffab.",
    "a text that claims 2**64 bytes": b"\x80\x04\x8d" + b"\xff" * 8 + b".",
    "a text of 2 MB": b"\x80\x02X" + struct.pack("<I", 2 << 20) + bytes(2 << 20) + b".",
    "a text that is not UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "a number of 200 bytes": b"\x80\x02\x8a\xc8" + bytes(200) + b".",
    "a frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "a name without an end": b"\x80\x02c" + b"a" * 1000 + b".",
    "a name that is not UTF-8": b"\x80\x02c\xff\nx\n.",
    "a stack global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "a name as a value": b"\x80\x02ccollections\nOrderedDict\n.",
    "arguments that are no tuple": b"\x80\x02ccollections\nOrderedDict\nNR.",
    "arguments for an OrderedDict": b"\x80\x02ccollections\nOrderedDict\n" + dump((1,)) + b"R.",
    "a parameter of nothing": b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
    "a tensor of nothing": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a storage as a value": b"\x80\x02" + dump(("storage", Raw(b"ctorch\nFloatStorage\n"), "0", "cpu", 1)) + b"Q.",
    "a persistent id that is a text": b"\x80\x02" + dump("0") + b"Q.",
    "a persistent id of 4": b"\x80\x02" + dump(("storage", 1, 2, 3)) + b"Q.",
    "a storage of a dict type": b"\x80\x02" + dump(("storage", {}, "0", "cpu", 1)) + b"Q.",
    "a storage of an allowed name": b"\x80\x02"
    + dump(("storage", Raw(b"ccollections\nOrderedDict\n"), "0", "cpu", 1))
    + b"Q.",
    "a storage of -1 values": pickle_of(Tensor("0", "f32", -1, 0, (1,), (1,))),
    "an offset of -1": pickle_of(Tensor("0", "f32", 1, -1, (1,), (1,))),
    "a size of -1": pickle_of(Tensor("0", "f32", 1, 0, (-1,), (1,))),
    "a stride of -1": pickle_of(Tensor("0", "f32", 1, 0, (1,), (-1,))),
    "more sizes than strides": pickle_of(Tensor("0", "f32", 1, 0, (1, 1), (1,))),
    "nine axes": pickle_of(Tensor("0", "f32", 1, 0, (1,) * 9, (1,) * 9)),
    "a size that is a float": pickle_of(Tensor("0", "f32", 1, 0, (1.0,), (1,))),  # type: ignore[arg-type]
    "a tensor to negate": b"\x80\x02" + A_TENSOR[:-2] + dump({"neg": True}) + b"tR.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dict in itself": b"\x80\x02}q\x00" + dump("a") + b"h\x00s.",
    "a tuple in its list": b"\x80\x02]q\x00h\x00\x85a.",
    "endless nesting": b"\x80\x02)" + b"\x85" * 900_000 + b".",
    "endless marks": b"\x80\x02" + b"(" * 900_000 + b".",
    "an endless stack": b"\x80\x02" + b"N" * 900_000 + b".",
    "an endless pickle": b"\x80\x02" + b"Nq\x00" * 10 + b"\x80\x02" * 1_100_000 + b".",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_a_format_error_with_its_place(case: str) -> None:
    with pytest.raises(ModelFormatError) as caught:
        read(DAMAGED[case])
    assert 0 <= caught.value.offset <= len(DAMAGED[case])
    assert caught.value.field and caught.value.value and caught.value.allowed
    assert len(str(caught.value)) < 1000


A_CHECKPOINT = {
    **PLAIN,
    "state": OrderedDict(
        (f"layer.{i}.weight", Tensor(str(i), type_, 24, 0, (2, 3, 4), (12, 4, 1)))
        for i, type_ in enumerate(STORAGE_NAMES)
    ),
}


def test_a_pickle_cut_anywhere_is_a_format_error() -> None:
    data = pickle_of(A_CHECKPOINT)
    for length in range(len(data)):
        with pytest.raises(ModelFormatError) as caught:
            read(data[:length])
        assert caught.value.offset <= length


def test_flipped_bytes_give_an_object_or_a_model_error() -> None:
    rng, data = random.Random(1), pickle_of(A_CHECKPOINT)
    n_refused = 0
    for _ in range(4000):
        copy = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            copy[rng.randrange(len(copy))] = rng.randrange(256)
        try:
            read(bytes(copy))
        except ModelError:
            n_refused += 1
    assert n_refused > 2000


def test_random_programs_give_an_object_or_a_model_error() -> None:
    rng = random.Random(2)
    snippets = [b"N", b"(", b")", b"}", b"]", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"R", b"b", b"Q"]
    snippets += [b"\x81", b"\x93", b"\x94", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"K\x01", b"\x88", b"0", b"2", b"."]
    snippets += [dump("storage"), dump("0"), dump("collections"), dump("OrderedDict"), A_TENSOR, dump(OrderedDict())]
    snippets += [b"ccollections\nOrderedDict\n", b"ctorch\nHalfStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"]
    n_read = 0
    for _ in range(20_000):
        try:
            read(b"\x80\x02" + b"".join(rng.choices(snippets, k=rng.randrange(1, 12))) + b".")
            n_read += 1
        except ModelError:
            pass
    assert n_read > 100


# ---- Torch files: values ---------------------------------------------------------------------------------------------

NUMPY_TYPES = {
    "f32": "<f4", "f16": "<f2", "bf16": "<u2", "f64": "<f8", "i8": "i1", "u8": "u1", "bool": "?", "i32": "<i4",
    "i64": "<i8",
}  # fmt: skip


def contiguous(key: str, type_: str, shape: tuple[int, ...]) -> Tensor:
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    return Tensor(key, type_, int(np.prod(shape)), 0, shape, strides)


def open_one(path: Path) -> TorchTensor:
    tree = read_torch_file(path)
    assert isinstance(tree, dict)
    tensor = tree["t"]
    assert isinstance(tensor, TorchTensor)
    return tensor


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("type_", STORAGE_NAMES)
def test_values_of_each_type(type_: str, deflate: bool, tmp_path: Path) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(NUMPY_TYPES[type_])
    path = write_torch_zip(
        tmp_path / "a.pt", {"t": contiguous("0", type_, (2, 3, 4))}, {"0": values.tobytes()}, deflate=deflate
    )
    tensor = open_one(path)
    assert (tensor.shape, tensor.type) == ((2, 3, 4), type_)
    assert values_of(tensor) == values.tobytes()
    assert tensor.read_rows(3, 2) == values.reshape(6, 4)[3:5].tobytes()
    assert tensor.where[0] == str(path)
    if not deflate:
        assert path.read_bytes()[tensor.where[1] :].startswith(values.tobytes())


STRIDED: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "transposed": (0, (4, 6), (1, 4)),
    "axes rotated": (0, (4, 2, 3), (1, 12, 4)),
    "columns": (1, (6, 2), (4, 1)),
    "every other row": (0, (3, 4), (8, 1)),
    "every other value": (1, (12,), (2,)),
    "one value repeated": (5, (3, 4), (0, 0)),
    "one row repeated": (4, (5, 4), (0, 1)),
    "from the middle": (8, (4, 4), (4, 1)),
    "no axes": (7, (), ()),
    "strides of single axes": (0, (1, 24, 1), (99, 1, 77)),
    "no values": (0, (0, 4), (4, 1)),
    "rows of no values": (24, (3, 0), (1, 1)),
}


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("case", STRIDED)
def test_strides(case: str, deflate: bool, tmp_path: Path) -> None:
    offset, shape, stride = STRIDED[case]
    values = np.arange(24, dtype="<i4")
    path = write_torch_zip(
        tmp_path / "a.pt",
        {"t": Tensor("0", "i32", 24, offset, shape, stride)},
        {"0": values.tobytes()},
        deflate=deflate,
    )
    tensor = open_one(path)
    expected = np.array([
        values[offset + sum(i * step for i, step in zip(index, stride))] for index in np.ndindex(*shape)
    ], "<i4")  # fmt: skip
    assert tensor.shape == shape
    assert values_of(tensor) == expected.tobytes()
    if len(shape) > 1 and expected.size:
        rows = expected.reshape(-1, shape[-1])
        assert b"".join(tensor.read_rows(i, 1) for i in range(len(rows))) == expected.tobytes()


OUTSIDE: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "one row too many": (0, (7, 4), (4, 1)),
    "an offset too far": (1, (6, 4), (4, 1)),
    "an offset of nothing": (25, (0,), (1,)),
    "a stride too long": (0, (2, 4), (21, 1)),
    "2**62 rows": (0, (2**62, 4), (0, 1)),
    "a product beyond 64 bits": (0, (2**33, 2**33), (0, 0)),
    "a stride beyond 64 bits": (0, (3, 1), (2**62, 1)),
    "an offset beyond 64 bits": (2**62, (2, 2), (2**62, 1)),
    "a product of zero": (0, (2**62, 2**62, 0), (1, 1, 1)),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_tensors_outside_their_storage(case: str, tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.pt", {"t": Tensor("0", "i32", 24, *OUTSIDE[case])}, {"0": bytes(96)})
    with pytest.raises(ModelFormatError) as caught:
        read_torch_file(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("deflate", [False, True])
def test_tensors_that_share_a_storage(deflate: bool, tmp_path: Path) -> None:
    values = np.arange(24, dtype="<f4")
    tree = {
        "all": contiguous("0", "f32", (6, 4)),
        "tied": contiguous("0", "f32", (6, 4)),
        "half": Tensor("0", "f32", 24, 12, (3, 4), (4, 1)),
        "across": Tensor("0", "f32", 24, 0, (4, 6), (1, 4)),
    }
    found = read_torch_file(write_torch_zip(tmp_path / "a.pt", tree, {"0": values.tobytes()}, deflate=deflate))
    assert isinstance(found, dict)
    assert values_of(found["all"]) == values_of(found["tied"]) == values.tobytes()
    assert values_of(found["half"]) == values[12:].tobytes()
    assert values_of(found["across"]) == values.reshape(6, 4).T.tobytes()


def test_a_storage_of_two_sizes_or_types(tmp_path: Path) -> None:
    for other in (Tensor("0", "f16", 48, 0, (1,), (1,)), Tensor("0", "i32", 24, 0, (1,), (1,))):
        path = write_torch_zip(tmp_path / "a.pt", [contiguous("0", "f32", (6, 4)), other], {"0": bytes(96)})
        with pytest.raises(ModelFormatError, match="as before"):
            read_torch_file(path)


def test_many_threads_read_compressed_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 500, 64)).astype("<f4")
    tree = {str(i): contiguous(str(i), "f32", (500, 64)) for i in range(6)}
    path = write_torch_zip(tmp_path / "a.pt", tree, {str(i): values[i].tobytes() for i in range(6)}, deflate=True)
    found, wrong = read_torch_file(path), []
    assert isinstance(found, dict)

    def read_all(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(200):
            i, first = rng.randrange(6), rng.randrange(490)
            if found[str(i)].read_rows(first, 10) != values[i, first : first + 10].tobytes():
                wrong.append((i, first))

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_held_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperq_edge._convert.readers.torch_file._HELD_BYTES", 1000)
    values = np.arange(600, dtype="<f4").reshape(3, 200)
    tree = {str(i): contiguous(str(i), "f32", (1, 200)) for i in range(3)}
    path = write_torch_zip(tmp_path / "a.pt", tree, {str(i): values[i].tobytes() for i in range(3)}, deflate=True)
    found = read_torch_file(path)
    assert isinstance(found, dict)
    for i in (0, 1, 2, 0, 2, 1):
        assert values_of(found[str(i)]) == values[i].tobytes()
    held = found["0"].read_rows.__self__.span.held
    assert len(held._blocks) == 1


# ---- Torch files: the zip --------------------------------------------------------------------------------------------


@pytest.fixture
def small_pt(tmp_path: Path) -> Path:
    values = np.arange(24, dtype="<f4")
    return write_torch_zip(tmp_path / "small.pt", {"t": contiguous("0", "f32", (6, 4))}, {"0": values.tobytes()})


def test_any_name_of_the_top_folder(tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.pt", {"t": contiguous("0", "f32", (1,))}, {"0": bytes(4)}, top="my model.v2")
    assert open_one(path).shape == (1,)


def test_a_file_that_says_no_byte_order_is_little_endian(tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.pt", {"t": contiguous("0", "f32", (1,))}, {"0": bytes(4)}, byteorder=None)
    assert open_one(path).shape == (1,)


@pytest.mark.parametrize(
    ("order", "error"), [(b"big", UnsupportedModelError), (b"mixed", ModelFormatError), (b"l" * 99, ModelFormatError)]
)
def test_other_byte_orders(order: bytes, error: type[ModelError], tmp_path: Path) -> None:
    with pytest.raises(error, match=r"big endian|byteorder"):
        read_torch_file(write_torch_zip(tmp_path / "a.pt", {}, byteorder=order))


@pytest.mark.parametrize("n_bytes", [0, 95, 97, 192])
def test_a_storage_of_the_wrong_size(n_bytes: int, tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.pt", {"t": contiguous("0", "f32", (6, 4))}, {"0": bytes(n_bytes)})
    with pytest.raises(ModelFormatError, match="96 for 24 values of f32") as caught:
        read_torch_file(path)
    assert caught.value.value == f"{n_bytes} bytes"


def test_a_storage_that_is_missing(tmp_path: Path) -> None:
    for key in ("0", "../../data.pkl", "x" * 5000):
        with pytest.raises(ModelFormatError, match="missing"):
            read_torch_file(write_torch_zip(tmp_path / "a.pt", {"t": contiguous(key, "f32", (6, 4))}))


def test_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    values = np.arange(24, dtype="<f4")
    path = write_torch_zip(tmp_path / "a.pt", {"t": contiguous("0", "f32", (6, 4))}, {"0": values.tobytes()})
    assert b"PK\x06\x06" in path.read_bytes()
    assert values_of(open_one(path)) == values.tobytes()


def test_a_zip_with_a_comment(small_pt: Path) -> None:
    with zipfile.ZipFile(small_pt, "a") as archive:
        archive.comment = b"a comment with PK\x05\x06 in it " * 10
    assert open_one(small_pt).shape == (6, 4)


def test_a_name_twice(small_pt: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(small_pt, "a") as archive:
        archive.writestr("archive/data/0", bytes(96))
    with pytest.raises(ModelFormatError, match="twice"):
        read_torch_file(small_pt)


def test_two_pickles_or_none(tmp_path: Path, small_pt: Path) -> None:
    with zipfile.ZipFile(small_pt, "a") as archive:
        archive.writestr("other/data.pkl", pickle_of({}))
    with pytest.raises(ModelFormatError, match=r"2 entries FOLDER/data\.pkl"):
        read_torch_file(small_pt)
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelFormatError, match=r"0 entries FOLDER/data\.pkl"):
        read_torch_file(tmp_path / "plain.zip")


def test_torchscript(small_pt: Path) -> None:
    with zipfile.ZipFile(small_pt, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle_of(()))
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        read_torch_file(small_pt)


def test_an_encrypted_entry(small_pt: Path) -> None:
    data = bytearray(small_pt.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    small_pt.write_bytes(data)
    with pytest.raises(UnsupportedModelError, match="encrypted"):
        read_torch_file(small_pt)


def test_another_method(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("archive/data.pkl", pickle_of({}))
    with pytest.raises(UnsupportedModelError, match="method 12"):
        read_torch_file(tmp_path / "a.pt")


def test_bytes_before_the_zip(small_pt: Path) -> None:
    small_pt.write_bytes(b"PK\x03\x04 or so " + small_pt.read_bytes())
    with pytest.raises(ModelFormatError):
        read_torch_file(small_pt)


def put_in_directory(path: Path, name: str, at: int, value: int) -> None:
    """Writes 4 bytes into the directory's entry of ``name``."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    struct.pack_into("<I", data, entry + at, value)
    path.write_bytes(data)


PACKED_BYTES, SIZE, HEADER = 20, 24, 42  # within an entry of the directory


def test_compressed_entries_that_claim_what_they_are_not(tmp_path: Path) -> None:
    tree = {"t": contiguous("0", "f32", (6, 4))}

    def craft() -> Path:
        return write_torch_zip(tmp_path / "a.pt", tree, {"0": bytes(96)}, deflate=True)

    put_in_directory(craft(), "archive/data/0", SIZE, 3_000_000_000)
    with pytest.raises(ModelFormatError, match="the most that deflate can put there"):
        read_torch_file(tmp_path / "a.pt")
    # A pickle that claims the same, so that only unpacking tells.
    for claimed, message in ((100, "100, as the directory claims"), (92, "more than 92 bytes")):
        tree = {"t": contiguous("0", "f32", (claimed // 4,))}
        put_in_directory(craft(), "archive/data/0", SIZE, claimed)
        tensor = open_one(tmp_path / "a.pt")
        with pytest.raises(ModelFormatError, match=message):
            values_of(tensor)


def test_a_pickle_of_more_than_64_mb(tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.pt", Raw(bytes((64 << 20) + 1)), deflate=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(ModelFormatError, match="at most 67108864"):
        read_torch_file(path)


@pytest.mark.parametrize("layout", [((1, 1), (1, 1)), ((4, 4), (1, 4))])
def test_a_tensor_that_would_unpack_far_more_than_it_has(
    layout: tuple[tuple[int, ...], tuple[int, ...]], tmp_path: Path
) -> None:
    n_values = 20_000_000
    tree = {"t": Tensor("0", "f32", n_values, 0, *layout)}
    path = write_torch_zip(tmp_path / "a.pt", tree, {"0": bytes(4 * n_values)}, deflate=True)
    assert path.stat().st_size < 200_000
    with pytest.raises(ModelFormatError, match="to hold in memory"):
        read_torch_file(path)


def test_entries_in_the_same_bytes(tmp_path: Path) -> None:
    """Many names for one compressed block is how a small file claims petabytes."""
    tree = {"a": contiguous("0", "f32", (6, 4)), "b": contiguous("1", "f32", (6, 4))}
    path = write_torch_zip(tmp_path / "a.pt", tree, {"0": bytes(96), "1": bytes(96)})
    data = bytearray(path.read_bytes())
    first = data.index(b"archive/data/0") - 30
    name = data.index(b"archive/data/1", data.index(b"PK\x01\x02"))
    struct.pack_into("<I", data, name - 46 + HEADER, first)
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match="the same name"):
        read_torch_file(path)
    data[name : name + 14] = data[first + 30 : first + 44] = b"archive/data/X"
    struct.pack_into("<I", data, data.index(b"archive/data/0", name - 200) - 46 + HEADER, first)
    path.write_bytes(data)
    with pytest.raises(ModelFormatError):
        read_torch_file(path)


def test_an_entry_that_covers_the_next(small_pt: Path) -> None:
    put_in_directory(small_pt, "archive/data/0", PACKED_BYTES, 150)
    put_in_directory(small_pt, "archive/data/0", SIZE, 150)
    with pytest.raises(ModelFormatError, match="in the bytes of another entry"):
        read_torch_file(small_pt)


def test_damage_in_compressed_values_is_noticed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, 4000, dtype=np.uint8)
    tree = {"t": contiguous("0", "u8", (40, 100))}
    data = write_torch_zip(tmp_path / "a.pt", tree, {"0": values.tobytes()}, deflate=True).read_bytes()
    begin = data.index(b"archive/data/0") + 14
    for at in range(begin + 100, begin + 4000, 371):
        copy = bytearray(data)
        copy[at] ^= 0x10
        (tmp_path / "a.pt").write_bytes(copy)
        with pytest.raises(ModelFormatError, match=r"deflated data|checksum"):
            values_of(open_one(tmp_path / "a.pt"))


def test_damage_in_the_pickle_is_noticed_by_its_checksum(small_pt: Path) -> None:
    data = bytearray(small_pt.read_bytes())
    data[data.index(b"storage") + 1] ^= 1
    small_pt.write_bytes(data)
    with pytest.raises(ModelFormatError, match="checksum"):
        read_torch_file(small_pt)


def test_a_file_that_shrinks_while_it_is_read(small_pt: Path) -> None:
    tensor = open_one(small_pt)
    small_pt.write_bytes(small_pt.read_bytes()[: tensor.where[1] + 50])
    with pytest.raises(ModelFormatError, match="before the file ends"):
        values_of(tensor)


LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (
            LEGACY + b"\x80\x02M\xe9\x03.",
            UnsupportedModelError,
            r"a pickle in the format .* before version 1\.6\. Save it",
        ),
        (b"\x80\x04" + LEGACY[2:], UnsupportedModelError, r"safetensors"),
        (b"pickle".ljust(257, b"\0") + b"ustar\x0000" + bytes(500), UnsupportedModelError, "a tar in the format"),
        (b"", ModelFormatError, "first bytes"),
        (b"ggml" * 100, ModelFormatError, "as torch.save writes it"),
        (b"PK\x03\x04", ModelFormatError, "end of the zip"),
        (b"PK\x03\x04" + bytes(70_000), ModelFormatError, "end of the zip"),
    ],
)
def test_files_that_are_something_else(content: bytes, error: type[ModelError], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(error, match=message):
        read_torch_file(tmp_path / "a.pt")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        open_openai(tmp_path / "none.pt")
    with pytest.raises(ModelFormatError, match="a folder"):
        open_openai(tmp_path)


def test_is_torch_file(small_pt: Path, tmp_path: Path) -> None:
    (tmp_path / "legacy.pt").write_bytes(LEGACY)
    (tmp_path / "other.bin").write_bytes(b"lmgg" + bytes(100))
    (tmp_path / "empty.bin").write_bytes(b"")
    assert is_torch_file(small_pt) and is_torch_file(tmp_path / "legacy.pt")
    assert not any(map(is_torch_file, (tmp_path / "other.bin", tmp_path / "empty.bin", tmp_path, tmp_path / "none")))


def read_everything(path: Path) -> None:
    tree = read_torch_file(path)
    for value in tree.values() if isinstance(tree, dict) else ():
        if isinstance(value, TorchTensor):
            assert len(values_of(value)) >= 0


@pytest.mark.parametrize("deflate", [False, True])
def test_files_cut_or_damaged_anywhere(deflate: bool, tmp_path: Path) -> None:
    tree = {
        "a": contiguous("0", "f32", (6, 4)),
        "b": Tensor("1", "f16", 24, 0, (4, 6), (1, 4)),
        "c": {"metadata": [1, 2.5, None, "text"]},
    }
    path = tmp_path / "a.pt"
    data = write_torch_zip(path, tree, {"0": bytes(range(96)), "1": bytes(48)}, deflate=deflate).read_bytes()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFormatError) as caught:
            read_torch_file(path)
        assert caught.value.path == str(path) and 0 <= caught.value.offset <= length
    rng, n_refused = random.Random(3), 0
    for _ in range(1500):
        copy = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            copy[rng.randrange(len(copy))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        path.write_bytes(copy)
        try:
            read_everything(path)
        except ModelError:
            n_refused += 1
    assert n_refused > 500


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_opens(micro_pt: Path, micro_state: dict[str, Floats]) -> None:
    source = open_openai(micro_pt)
    assert (source.format, source.files, source.ftype) == ("openai", [micro_pt], "f16")
    assert source.dims == MICRO and source.notes == []
    assert source.vocabulary is None and source.mel_filters is None
    assert [tensor.name for tensor in source.tensors] == list(micro_state)
    for tensor in source.tensors:
        assert tensor.shape == micro_state[tensor.name].shape
        assert values_of(tensor) == micro_state[tensor.name].tobytes()


@pytest.fixture(scope="module")
def nano_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano_checkpoint(tmp_path_factory.mktemp("nano") / "nano.en.pt")


def test_the_bundled_model_gives_the_checkpoint_of_its_training_bit_by_bit(nano_pt: Path) -> None:
    source = open_openai(nano_pt)
    assert (source.dims.n_audio_state, source.dims.n_vocab, source.ftype) == (192, 51864, "f16")
    digest = hashlib.sha256()
    for tensor in source.tensors:
        digest.update(f"{tensor.name} {tensor.type} {list(tensor.shape)}\n".encode() + values_of(tensor))
    assert digest.hexdigest() == NANO_CHECKPOINT_SHA256


def test_a_compressed_checkpoint_opens(nano_pt: Path, tmp_path: Path) -> None:
    path = tmp_path / "deflated.pt"
    with zipfile.ZipFile(nano_pt) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
        for info in stored.infolist():
            deflated.writestr(info.filename, stored.read(info))
    with zipfile.ZipFile(path) as archive:
        for i, tensor in enumerate(open_openai(path).tensors):
            info = archive.getinfo(f"archive/data/{i}")
            assert info.compress_type == zipfile.ZIP_DEFLATED
            assert values_of(tensor) == archive.read(info), tensor.name


def test_buffers_are_left_out_with_a_note(micro_state: dict[str, Floats], tmp_path: Path) -> None:
    more = {"decoder.mask": np.zeros((448, 448), np.float32), "alignment_heads": np.zeros((1, 1), np.int64)}
    source = open_openai(write_checkpoint(tmp_path / "a.pt", DIMS, {**micro_state, **more}))
    assert len(source.tensors) == len(micro_state)
    assert source.notes == ["Left out, for they are no weights: 'decoder.mask', 'alignment_heads'."]


def test_more_beside_the_model_is_no_matter(micro_state: dict[str, Floats], tmp_path: Path) -> None:
    more = {"epoch": 3, "loss": 0.25, "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 1e-5}]}}
    assert open_openai(write_checkpoint(tmp_path / "a.pt", DIMS, micro_state, more=more)).dims == MICRO


def without(state: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in state.items() if key != name}


def test_checkpoints_that_are_no_whisper(micro_state: dict[str, Floats], tmp_path: Path) -> None:
    name = "encoder.conv1.weight"
    bad: list[tuple[Mapping[str, object], Mapping[str, object], str]] = [
        (DIMS, without(micro_state, name), f"{name} is missing"),
        (DIMS, {**micro_state, "decoder.adapter": np.zeros((2, 2), np.float16)}, "tensor name is decoder.adapter"),
        (DIMS, {**micro_state, name: micro_state[name][:, :, :2]}, f"{name} shape is"),
        (DIMS, {**micro_state, name: "a text"}, f"'{name}' is a str"),
        (
            DIMS,
            {**micro_state, name: np.zeros((64, 80, 3), np.int64)},
            f"'{name}' type is i64; allowed: f32 f16 bf16 f64",
        ),
        (without(DIMS, "n_mels"), micro_state, "n_mels is None"),
        ({**DIMS, "n_mels": "80"}, micro_state, "n_mels is '80'"),
    ]
    for dims, state, message in bad:
        with pytest.raises(ModelFormatError) as caught:
            open_openai(write_checkpoint(tmp_path / "a.pt", dims, state))
        assert message in str(caught.value)
    with pytest.raises(UnsupportedModelError, match="n_vocab is 1000"):
        open_openai(write_checkpoint(tmp_path / "a.pt", {**DIMS, "n_vocab": 1000}, micro_state))


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], "checkpoint is a list"),
        ({"model_state_dict": {}}, r"dims is missing \(the file has 'model_state_dict'\)"),
        ({"dims": DIMS}, "model_state_dict is missing"),
        ({"dims": DIMS, "model_state_dict": {1: 2}}, "model_state_dict is no dict of names"),
        ({}, "the file has nothing"),
        ({"model.encoder.conv1.weight": contiguous("0", "f32", (1,))}, r"Hugging Face's: name the folder"),
    ],
)
def test_files_that_are_no_checkpoint(checkpoint: object, message: str, tmp_path: Path) -> None:
    path = write_torch_zip(tmp_path / "a.pt", checkpoint, {"0": bytes(4)})
    with pytest.raises(ModelFormatError, match=message):
        open_openai(path)


# ---- Writing ---------------------------------------------------------------------------------------------------------


def assert_equal(found: Source, expected: Mapping[str, npt.NDArray[Any]]) -> None:
    assert {tensor.name for tensor in found.tensors} == set(expected)
    for tensor in found.tensors:
        assert tensor.shape == expected[tensor.name].shape
        assert values_of(tensor) == expected[tensor.name].tobytes(), tensor.name


def test_a_round_trip_is_equal_to_the_bit(micro_pt: Path, micro_state: dict[str, Floats], tmp_path: Path) -> None:
    seen: list[float] = []
    write_openai(open_openai(micro_pt), tmp_path / "a.pt", "f16", seen.append)
    again = open_openai(tmp_path / "a.pt")
    assert (again.dims, again.ftype) == (MICRO, "f16")
    assert_equal(again, micro_state)
    assert all(tensor.where[1] % 64 == 0 for tensor in again.tensors)
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > len(micro_state)
    write_openai(again, tmp_path / "b.pt")
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_through_f32_and_back(micro_pt: Path, micro_state: dict[str, Floats], tmp_path: Path) -> None:
    write_openai(open_openai(micro_pt), tmp_path / "wide.pt", "f32")
    wide = open_openai(tmp_path / "wide.pt")
    assert wide.ftype == "f32"
    assert_equal(wide, {name: values.astype("<f4") for name, values in micro_state.items()})
    write_openai(wide, tmp_path / "narrow.pt", "f16")
    assert_equal(open_openai(tmp_path / "narrow.pt"), micro_state)


def test_other_floats_are_rounded_to_f16(micro_state: dict[str, Floats], tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    state = {name: rng.standard_normal(values.shape) for name, values in micro_state.items()}
    source = open_openai(write_checkpoint(tmp_path / "f64.pt", DIMS, state))
    assert source.ftype == "f64"
    write_openai(source, tmp_path / "f16.pt")
    for tensor in open_openai(tmp_path / "f16.pt").tensors:
        values = np.frombuffer(values_of(tensor), "<f2").astype(np.float64)
        expected = state[tensor.name].ravel()
        half_a_step = 2.0**-11 * np.abs(expected) + 2.0**-25  # 2**-24 is the step of the smallest numbers
        assert np.all(np.abs(values - expected) <= half_a_step), tensor.name


def test_swapped_axes_are_written_in_order(micro_state: dict[str, Floats], tmp_path: Path) -> None:
    name = "encoder.blocks.0.mlp.0.weight"
    values = micro_state[name]
    crafted = write_checkpoint(
        tmp_path / "a.pt", DIMS, {**micro_state, name: Tensor("swapped", "f16", values.size, 0, values.shape, (1, 256))}
    )
    with zipfile.ZipFile(crafted, "a") as archive:
        archive.writestr("archive/data/swapped", values.T.tobytes())
    write_openai(open_openai(crafted), tmp_path / "b.pt")
    assert_equal(open_openai(tmp_path / "b.pt"), micro_state)


def test_the_written_zip_is_sound_and_so_is_its_pickle(micro_pt: Path, tmp_path: Path) -> None:
    write_openai(open_openai(micro_pt), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        data = archive.read("archive/data.pkl")

    class Checked(pickle.Unpickler):
        """Python's own reader, with stand-ins for the few names it may ask for."""

        def find_class(self, module: str, name: str) -> object:
            if (module, name) == ("collections", "OrderedDict"):
                return OrderedDict
            assert (module, name) in {("torch", "HalfStorage"), ("torch._utils", "_rebuild_tensor_v2")}
            return (lambda *arguments: arguments) if name.startswith("_") else name

        def persistent_load(self, pid: object) -> object:
            return pid

    checkpoint = Checked(io.BytesIO(data)).load()
    assert checkpoint["dims"] == DIMS
    storage = ("storage", "HalfStorage", "1", "cpu", 64 * 80 * 3)
    state = checkpoint["model_state_dict"]
    assert isinstance(state, OrderedDict)
    assert state["encoder.conv1.weight"] == (storage, 0, (64, 80, 3), (240, 3, 1), False, OrderedDict())


def test_zip64_is_written_where_it_is_needed(
    micro_pt: Path, micro_state: dict[str, Floats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperq_edge._convert.readers.openai._ZIP64_FROM", 1000)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    write_openai(open_openai(micro_pt), tmp_path / "a.pt")
    again = open_openai(tmp_path / "a.pt")
    assert_equal(again, micro_state)
    assert all(tensor.where[1] % 64 == 0 for tensor in again.tensors)


def test_an_error_leaves_what_was_there(micro_pt: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pt"
    target.write_bytes(b"before")

    def stop(part: float) -> None:
        if part > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_openai(open_openai(micro_pt), target, on_progress=stop)
    with pytest.raises(OptionError, match="f16 f32"):
        write_openai(open_openai(micro_pt), target, "q5_0")
    assert target.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.pt"]


def test_a_weight_that_is_no_number(micro_state: dict[str, Floats], tmp_path: Path) -> None:
    values = micro_state["decoder.ln.bias"].copy()
    values[3] = np.nan
    source = open_openai(write_checkpoint(tmp_path / "a.pt", DIMS, {**micro_state, "decoder.ln.bias": values}))
    with pytest.raises(ModelFormatError, match=r"decoder\.ln\.bias value 3 is nan"):
        write_openai(source, tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


# ---- Against torch and openai/whisper --------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_whisper_saved_by_torch(half: bool, protocol: int, tmp_path: Path) -> None:
    torch, model = pytest.importorskip("torch"), pytest.importorskip("whisper.model")
    whisper = model.Whisper(model.ModelDimensions(**DIMS))
    whisper = whisper.half() if half else whisper
    state = whisper.state_dict()
    torch.save({"dims": DIMS, "model_state_dict": state}, tmp_path / "a.pt", pickle_protocol=protocol)
    source = open_openai(tmp_path / "a.pt")
    assert (source.dims, source.ftype) == (MICRO, "f16" if half else "f32")
    assert_equal(source, {name: values.numpy() for name, values in state.items()})


def test_torch_and_whisper_load_what_we_write(micro_state: dict[str, Floats], micro_pt: Path, tmp_path: Path) -> None:
    torch, whisper = pytest.importorskip("torch"), pytest.importorskip("whisper")
    path = tmp_path / "a.pt"
    write_openai(open_openai(micro_pt), path)
    for mmap in (False, True):
        checkpoint = torch.load(path, weights_only=True, mmap=mmap)
        assert checkpoint["dims"] == DIMS and list(checkpoint["model_state_dict"]) == list(micro_state)
        for name, values in checkpoint["model_state_dict"].items():
            assert values.dtype == torch.float16 and np.array_equal(values.numpy(), micro_state[name])
    state = whisper.load_model(str(path), device="cpu").state_dict()
    for name, expected in micro_state.items():
        assert np.array_equal(state[name].numpy(), expected.astype(np.float32)), name


def test_tensors_of_torch_in_other_layouts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "base": base,
        "transposed": base.t(),
        "columns": base[:, 1:4],
        "rows": base[::2],
        "expanded": base[0].expand(3, 6),
        "cube": base.reshape(2, 3, 4).permute(2, 0, 1),
        "bf16": base.bfloat16().t(),
        "parameter": torch.nn.Parameter(base.double()),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
    }
    torch.save(tensors, tmp_path / "a.pt")
    found = read_torch_file(tmp_path / "a.pt")
    assert isinstance(found, dict) and list(found) == list(tensors)
    for name, tensor in tensors.items():
        expected = tensor.detach().contiguous()
        raw = expected.view(torch.int16) if expected.dtype == torch.bfloat16 else expected
        assert found[name].shape == tuple(tensor.shape) and values_of(found[name]) == raw.numpy().tobytes(), name


def test_files_of_torch_without_checksums_or_in_the_old_format(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pt"
    torch.save({"t": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert is_torch_file(path)
    with pytest.raises(UnsupportedModelError, match=r"before version 1\.6"):
        read_torch_file(path)
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({"t": torch.ones(3)}, path)
        finally:
            torch.serialization.set_crc32_options(True)
        assert values_of(open_one(path)) == np.ones(3, "<f4").tobytes()
