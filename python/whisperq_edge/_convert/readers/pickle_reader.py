"""Reads the pickle inside a torch file by walking its opcodes: nothing is imported, called or unpickled.

A pickle is a program for a stack machine. We run only the opcodes that torch.save writes for tensors in plain
containers (protocols 2 to 5), and of the names that a pickle can ask for only those that describe tensors: each has a
meaning of ours, none is looked up in Python. The first thing beyond that ends the walk with its name in the error.
"""

from __future__ import annotations

import pickletools
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NoReturn, Optional, Union

from ..._errors import ModelFormatError, UnsafeModelError
from .safetensors import shown

__all__ = ["STORAGE_TYPES", "PickledTensor", "StorageRef", "read_pickle"]

STORAGE_TYPES = {
    "torch.FloatStorage": "f32",
    "torch.HalfStorage": "f16",
    "torch.BFloat16Storage": "bf16",
    "torch.DoubleStorage": "f64",
    "torch.CharStorage": "i8",
    "torch.ByteStorage": "u8",
    "torch.BoolStorage": "bool",
    "torch.IntStorage": "i32",
    "torch.LongStorage": "i64",
}
"""What torch calls the memory of a tensor -> the type of its values."""

_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_ALLOWED = {_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *STORAGE_TYPES}

# A checkpoint of large-v3 has 1,259 tensors, 40 opcodes each, 3 levels and names of 60 bytes.
_MOST_OPCODES = 1_000_000
_MOST_MARKS = 256
_MOST_ON_STACK = 100_000
_MOST_LEVELS = 64
_MOST_STRING_BYTES = 1 << 20
_MOST_NAME_BYTES = 256  # one line of GLOBAL
_MOST_INT_BYTES = 8
_MOST_AXES = 8
_HIGHEST_PROTOCOL = 5


@dataclass(frozen=True)
class StorageRef:
    """The memory that tensors look into: ``n_values`` values of ``type`` in the entry ``data/<key>``."""

    type: str
    key: str
    n_values: int


@dataclass(frozen=True)
class PickledTensor:
    """What a pickle says of a tensor. Only that these are numbers, as many strides as sizes, is checked.

    ``offset`` and ``stride`` count values; ``at`` is the byte of the pickle that built it.
    """

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    at: int


@dataclass(frozen=True)
class _Global:
    """A name of ``_ALLOWED``; a name and nothing more."""

    name: str


def read_pickle(
    data: bytes, path: Path, build_tensor: Callable[[PickledTensor], object], offset: Optional[int] = None
) -> object:
    """The object that a pickle describes: dict, OrderedDict, list, tuple, str, int, float, bool, None and tensors.

    It has no cycles and at most 64 levels, but two places may hold the same object, as in any pickle.

    Args:
        data: the pickle, whole.
        path: of the file it is from, for errors.
        build_tensor: gives what stands for a tensor in the result.
        offset: of ``data`` in that file; None: it lies there compressed.

    Raises:
        UnsafeModelError: it asks for a name or an opcode that tensors and plain containers do not need.
        ModelFormatError: it is damaged, refers to itself or exceeds what any checkpoint needs.
    """
    return _Machine(data, path, build_tensor, offset).run()


class _Machine:
    """The stack, the memo and the place in the pickle. ``_DO`` has what each opcode does."""

    def __init__(
        self, data: bytes, path: Path, build_tensor: Callable[[PickledTensor], object], offset: Optional[int]
    ) -> None:
        self._data, self._path, self._offset = data, path, offset
        self._build_tensor = build_tensor
        self._next = 0  # byte to read next
        self._at = 0  # first byte of the opcode that runs
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # the stacks below each open MARK
        self._n_below = 0
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(_MOST_OPCODES):
            self._at = self._next
            code = self._take(1)
            if code == b".":
                return self._stop()
            do = _DO.get(code)
            if do is None:
                self._refuse_opcode(code)
            do(self)
            if len(self._stack) + self._n_below > _MOST_ON_STACK:
                raise self._wrong("stack", f"more than {_MOST_ON_STACK} items", "what a checkpoint needs")
        raise self._wrong("pickle", f"longer than {_MOST_OPCODES} opcodes", "what a checkpoint needs")

    # ---- Errors

    def _wrong(self, field: str, value: str, allowed: str, at: Optional[int] = None) -> ModelFormatError:
        at = self._at if at is None else at
        where = 0 if self._offset is None else self._offset + at
        return ModelFormatError(str(self._path), where, f"data.pkl byte {at}: {field}", value, allowed)

    def _unsafe(self, what: str) -> NoReturn:
        raise UnsafeModelError(
            f"{self._path}: its pickle asks for {what} (byte {self._at} of data.pkl); a checkpoint of tensors needs"
            " only tensors, dicts, lists, tuples, texts and numbers. Nothing was run. Opening this file with Python's"
            " pickle could run any code: use a safetensors file, or a checkpoint from somebody you trust that was"
            " saved again with nothing but its tensors and dimensions."
        )

    def _refuse_opcode(self, code: bytes) -> NoReturn:
        opcode = next((opcode for opcode in pickletools.opcodes if opcode.code == code.decode("latin-1")), None)
        if opcode is None:
            raise self._wrong("opcode", f"0x{code.hex()}", "an opcode of pickle")
        if opcode.name == "INST":
            self._unsafe(f"{self._global_of_lines()} with the opcode INST")
        if opcode.name.startswith("EXT"):
            number = int.from_bytes(self._take(int(opcode.name[3:])), "little")
            self._unsafe(f"number {number} of the extension registry with the opcode {opcode.name}")
        self._unsafe(f"the opcode {opcode.name}")

    # ---- Bytes

    def _take(self, count: int) -> bytes:
        left = len(self._data) - self._next
        if count > left:
            raise self._wrong("pickle", f"{left} bytes until its end", f"{count} more bytes")
        self._next += count
        return self._data[self._next - count : self._next]

    def _unsigned(self, n_bytes: int) -> int:
        return int.from_bytes(self._take(n_bytes), "little")

    def _text(self, n_bytes: int) -> str:
        if n_bytes > _MOST_STRING_BYTES:
            raise self._wrong("length of a text", str(n_bytes), f"at most {_MOST_STRING_BYTES} bytes")
        try:
            return self._take(n_bytes).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong("text", f"a byte that is not UTF-8 ({error.start})", "UTF-8") from None

    def _line(self) -> str:
        end = self._data.find(b"\n", self._next, self._next + _MOST_NAME_BYTES + 1)
        if end < 0:
            raise self._wrong("name", "a line without an end", f"a line of at most {_MOST_NAME_BYTES} bytes")
        try:
            return self._take(end + 1 - self._next)[:-1].decode("utf-8")
        except UnicodeDecodeError:
            raise self._wrong("name", "a line that is not UTF-8", "UTF-8") from None

    # ---- Stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self) -> object:
        if not self._stack:
            raise self._wrong("stack", "empty", "an item for this opcode")
        return self._stack.pop()

    def _top(self) -> object:
        if not self._stack:
            raise self._wrong("stack", "empty", "an item for this opcode")
        return self._stack[-1]

    def mark(self) -> None:
        if len(self._below) >= _MOST_MARKS:
            raise self._wrong("nesting", f"more than {_MOST_MARKS} open marks", "what a checkpoint needs")
        self._below.append(self._stack)
        self._n_below += len(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[object]:
        if not self._below:
            raise self._wrong("stack", "without a mark", "a mark for this opcode")
        items, self._stack = self._stack, self._below.pop()
        self._n_below -= len(self._stack)
        return items

    # ---- Values

    def protocol(self) -> None:
        version = self._unsigned(1)
        if version > _HIGHEST_PROTOCOL:
            raise self._wrong("protocol", str(version), f"at most {_HIGHEST_PROTOCOL}")

    def frame(self) -> None:
        """A hint for readers of pipes; where it ends changes nothing."""
        length = self._unsigned(8)
        if length > len(self._data) - self._next:
            raise self._wrong(
                "length of a frame", str(length), f"at most the {len(self._data) - self._next} bytes left"
            )

    def push_int(self) -> None:
        """BININT is the only fixed width that has a sign."""
        self._push(int.from_bytes(self._take(4), "little", signed=True))

    def push_long(self) -> None:
        n_bytes = self._unsigned(1)
        if n_bytes > _MOST_INT_BYTES:
            raise self._wrong("number", f"{n_bytes} bytes long", f"at most {_MOST_INT_BYTES} bytes")
        self._push(int.from_bytes(self._take(n_bytes), "little", signed=True))

    def push_float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def make_tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise self._wrong("stack", f"{len(self._stack)} items", f"{count} for this opcode")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._push(items)

    def append(self, items: list[object]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise self._wrong("what items are appended to", _kind(target), "a list")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            raise self._wrong("what items are set in", _kind(target), "a dict")
        if len(items) % 2:
            raise self._wrong("items of a dict", f"{len(items)} keys and values", "a value for each key")
        for key, value in zip(items[::2], items[1::2]):
            if type(key) not in (str, int):  # others may be mutable, or costly to hash
                raise self._wrong("key of a dict", _kind(key), "a text or a whole number")
            if key in target:
                raise self._wrong("key of a dict", f"{shown(key)}, for the second time", "each key once")
            target[key] = value

    def _pair(self) -> list[object]:
        value = self._pop()
        return [self._pop(), value]

    def remember(self, index: int) -> None:
        self._memo[index] = self._top()

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise self._wrong("memo", f"item {index}, which was never stored", f"one of {len(self._memo)} stored items")
        self._push(self._memo[index])

    # ---- Names

    def _global_of_lines(self) -> str:
        module = self._line()
        return _printable(f"{module}.{self._line()}")

    def _push_global(self, name: str) -> None:
        if name not in _ALLOWED:
            self._unsafe(name)
        self._push(_Global(name))

    def global_of_lines(self) -> None:
        self._push_global(self._global_of_lines())

    def global_of_stack(self) -> None:
        module, name = self._pair()
        if not isinstance(module, str) or not isinstance(name, str):
            raise self._wrong("name", f"{_kind(module)} and {_kind(name)}", "two texts")
        self._push_global(_printable(f"{module}.{name}"))

    def _pop_call(self) -> tuple[_Global, tuple[object, ...]]:
        function, arguments = self._pair()
        if not isinstance(function, _Global):
            self._unsafe(f"a call of {_kind(function)}")
        if not isinstance(arguments, tuple):
            raise self._wrong(f"arguments of {function.name}", _kind(arguments), "a tuple")
        return function, arguments

    def call(self) -> None:
        function, arguments = self._pop_call()
        if function.name == _ORDERED_DICT:
            self._push(self._ordered_dict(arguments))
        elif function.name == _REBUILD_TENSOR:
            self._push(self._tensor(arguments))
        elif function.name == _REBUILD_PARAMETER:
            if len(arguments) != 3:
                raise self._wrong(f"arguments of {function.name}", str(len(arguments)), "3")
            self._push(arguments[0])
        else:
            self._unsafe(f"a call of {function.name}")

    def new_object(self) -> None:
        function, arguments = self._pop_call()
        if function.name != _ORDERED_DICT:
            self._unsafe(f"an object of {function.name}")
        self._push(self._ordered_dict(arguments))

    def _ordered_dict(self, arguments: tuple[object, ...]) -> OrderedDict[object, object]:
        if arguments:
            raise self._wrong(f"arguments of {_ORDERED_DICT}", str(len(arguments)), "none")
        return OrderedDict()

    def build(self) -> None:
        """torch hangs ``_metadata``, the versions of its modules, onto a state dict; they say nothing of the values."""
        target, state = self._pair()
        self._push(target)
        if not isinstance(target, OrderedDict):
            self._unsafe(f"attributes on {_kind(target)} (the opcode BUILD)")
        if type(state) is not dict or not all(type(name) is str for name in state):
            self._unsafe(f"attributes from {_kind(state)} (the opcode BUILD)")

    # ---- Tensors

    def storage(self) -> None:
        """A persistent id: ("storage", type, key, device, number of values)."""
        what = self._pop()
        if not isinstance(what, tuple) or len(what) != 5:
            raise self._wrong("persistent id", _kind(what), "a tuple of 5, which names a storage")
        label, type_, key, _, n_values = what
        if label != "storage" or not isinstance(key, str):
            raise self._wrong("persistent id", f"{_kind(label)} and {_kind(key)}", "'storage' and the name of an entry")
        if not isinstance(type_, _Global) or type_.name not in STORAGE_TYPES:
            raise self._wrong("type of a storage", _kind(type_), " ".join(STORAGE_TYPES))
        if type(n_values) is not int or n_values < 0:
            raise self._wrong("size of a storage", _kind(n_values), "a whole number from 0 on")
        self._push(StorageRef(STORAGE_TYPES[type_.name], key, n_values))

    def _tensor(self, arguments: tuple[object, ...]) -> object:
        """(storage, offset, size, stride, requires_grad, backward_hooks[, metadata])."""
        if len(arguments) not in (6, 7):
            raise self._wrong(f"arguments of {_REBUILD_TENSOR}", str(len(arguments)), "6 or 7")
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, StorageRef):
            raise self._wrong("storage of a tensor", _kind(storage), "a persistent id")
        if type(offset) is not int or offset < 0:
            raise self._wrong("offset of a tensor", _kind(offset), "a whole number from 0 on")
        sizes, strides = self._sizes("size", size), self._sizes("stride", stride)
        if len(sizes) != len(strides):
            raise self._wrong("stride of a tensor", f"of {len(strides)} axes", f"{len(sizes)} as its size has")
        # Anything else would be a flag such as "negate these values".
        metadata = arguments[6] if len(arguments) == 7 else None
        if metadata is not None and metadata != {}:
            raise self._wrong("metadata of a tensor", _kind(metadata), "none")
        return self._build_tensor(PickledTensor(storage, offset, sizes, strides, self._at))

    def _sizes(self, field: str, value: object) -> tuple[int, ...]:
        if not isinstance(value, tuple) or len(value) > _MOST_AXES:
            raise self._wrong(f"{field} of a tensor", _kind(value), f"a tuple of at most {_MOST_AXES} numbers")
        sizes = []
        for number in value:
            if type(number) is not int or number < 0:
                raise self._wrong(f"{field} of a tensor", f"with {_kind(number)}", "whole numbers from 0 on")
            sizes.append(number)
        return tuple(sizes)

    # ---- The end

    def _stop(self) -> object:
        result = self._pop()
        if self._stack or self._below:
            raise self._wrong("stack at the end", "more than one item", "the object alone")
        if self._next != len(self._data):
            raise self._wrong("bytes after the end", str(len(self._data) - self._next), "none")
        self._check_tree(result)
        return result

    def _check_tree(self, root: object) -> None:
        """No cycle, few levels, and nothing that only stands for a name: whoever gets it may walk it.

        Without recursion, which thousands of levels would exhaust.
        """
        levels: dict[int, int] = {}  # id of a finished container -> levels in it
        open_ones: set[int] = set()
        to_do: list[tuple[object, bool]] = [(root, False)]
        while to_do:
            value, is_left = to_do.pop()
            if isinstance(value, (_Global, StorageRef)):
                raise self._wrong("object", f"with {_kind(value)} as a value", "tensors and plain containers")
            children = _children(value)
            if is_left:
                open_ones.discard(id(value))
                levels[id(value)] = 1 + max((levels.get(id(child), 0) for child in children), default=0)
                if levels[id(value)] > _MOST_LEVELS:
                    raise self._wrong("object", f"more than {_MOST_LEVELS} levels deep", "what a checkpoint needs")
            elif id(value) in open_ones:
                raise self._wrong("object", "one that holds itself", "no cycles")
            elif id(value) not in levels and children:
                open_ones.add(id(value))
                if len(open_ones) > _MOST_LEVELS:
                    raise self._wrong("object", f"more than {_MOST_LEVELS} levels deep", "what a checkpoint needs")
                to_do.append((value, True))
                to_do.extend((child, False) for child in children)


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else []


def _kind(value: object) -> str:
    """For messages. Containers are never printed: they may be endless."""
    if isinstance(value, _Global):
        return value.name
    if value is None or isinstance(value, (str, int, float)):
        return shown(value)
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__}"
    return "a storage" if isinstance(value, StorageRef) else "a tensor"


def _printable(name: str) -> str:
    return shown(name)[1:-1]


_Do = Callable[[_Machine], None]


def _constant(value: Union[bool, tuple[()], None]) -> _Do:
    return lambda m: m._push(value)


_DO: dict[bytes, _Do] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": _Machine.mark,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"}": lambda m: m._push({}),
    b"]": lambda m: m._push([]),
    b"J": _Machine.push_int,
    b"K": lambda m: m._push(m._unsigned(1)),
    b"M": lambda m: m._push(m._unsigned(2)),
    b"\x8a": _Machine.push_long,
    b"G": _Machine.push_float,
    b"X": lambda m: m._push(m._text(m._unsigned(4))),
    b"\x8c": lambda m: m._push(m._text(m._unsigned(1))),
    b"\x8d": lambda m: m._push(m._text(m._unsigned(8))),
    b"t": lambda m: m._push(tuple(m._pop_mark())),
    b"\x85": lambda m: m.make_tuple(1),
    b"\x86": lambda m: m.make_tuple(2),
    b"\x87": lambda m: m.make_tuple(3),
    b"a": lambda m: m.append([m._pop()]),
    b"e": lambda m: m.append(m._pop_mark()),
    b"s": lambda m: m.set_items(m._pair()),
    b"u": lambda m: m.set_items(m._pop_mark()),
    b"q": lambda m: m.remember(m._unsigned(1)),
    b"r": lambda m: m.remember(m._unsigned(4)),
    b"\x94": lambda m: m.remember(len(m._memo)),
    b"h": lambda m: m.recall(m._unsigned(1)),
    b"j": lambda m: m.recall(m._unsigned(4)),
    b"c": _Machine.global_of_lines,
    b"\x93": _Machine.global_of_stack,
    b"R": _Machine.call,
    b"\x81": _Machine.new_object,
    b"b": _Machine.build,
    b"Q": _Machine.storage,
}
