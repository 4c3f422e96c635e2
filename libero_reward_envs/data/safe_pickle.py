"""Pickled NumPy arrays that may come from anywhere, located without being unpickled.

A pickle is a program. This reader knows the few instructions with which `np.save` writes
dictionaries of arrays, refuses all others by name, and calls nothing: arrays are described, not
made, so a file of a few bytes that claims terabytes costs nothing.
"""

import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
_MAX_INSTRUCTIONS = 10_000
_MAX_TEXT_BYTES = 4096
_MAX_DIMENSIONS = 8
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_GLOBALS = (*_RECONSTRUCT, "numpy.ndarray", "numpy.dtype")
_BYTE_ORDERS: dict[Any, Literal["<", ">", "|", "="]] = {"<": "<", ">": ">", "|": "|", "=": "="}
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|O8?")


@dataclass
class StoredArray:
    """Where an array of numbers lies in a file, and what it is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    offset: int  # of its first byte


def locate_arrays(file: BinaryIO) -> Any:
    """Read a `.npy` file that holds one pickled object.

    Args:
        file: The file, at its beginning, opened for binary reading.

    Returns:
        The object, made of dicts with string keys, lists, tuples, numbers, strings and None, with
        a `StoredArray` in the place of each array.

    Raises:
        ValueError: If it is damaged, claims more than the file holds, or asks for anything else.
    """
    size = os.fstat(file.fileno()).st_size
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("not a file of the npy format, version 1.0")
    header = file.read(int.from_bytes(file.read(2), "little")).strip()
    if header != _HEADER:  # compared, because reading it would be reading a Python expression
        raise ValueError(f"expected a pickled dictionary, got an array of {header[:100].decode()}")
    outer = _Machine(file, size).run()
    if not isinstance(outer, _ObjectArray):
        raise ValueError(f"expected a dictionary in an array of objects, got {_kind(outer)}")
    return outer.value


@dataclass
class _Bytes:
    offset: int
    length: int


@dataclass
class _Global:
    name: str


@dataclass(eq=False)
class _Dtype:
    code: str
    byte_order: Literal["<", ">", "|", "="] = "|"

    def build(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, item size, alignment, flags)
        order = state[1] if isinstance(state, tuple) and len(state) >= 5 else None
        if not isinstance(order, str) or order not in _BYTE_ORDERS:
            raise ValueError("a dtype with a state that is not one")
        if any(part is not None for part in state[2:5]):
            raise ValueError("a dtype with fields, expected plain numbers")
        self.byte_order = _BYTE_ORDERS[order]

    def make(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.byte_order)


@dataclass(eq=False)
class _ObjectArray:
    value: Any


class _Unbuilt:
    """An array between its two instructions."""

    def __init__(self) -> None:
        self.built: StoredArray | _ObjectArray | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise ValueError("an array with a state that is not one")
        _, shape, dtype, fortran_order, content = state
        if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
            raise ValueError("an array whose shape is not one")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array whose shape is not one")
        if dtype.code[0] == "O":
            if shape != () or not isinstance(content, list) or len(content) != 1:
                raise ValueError("an array of objects, expected numbers")
            self.built = _ObjectArray(content[0])
            return
        n_bytes = math.prod(shape) * dtype.make().itemsize
        if not isinstance(content, _Bytes):
            raise ValueError("an array whose content is not bytes")
        if n_bytes != content.length:
            raise ValueError(
                f"an array declares shape {shape}, {n_bytes} bytes, but {content.length} are stored"
            )
        self.built = StoredArray(dtype.make(), shape, bool(fortran_order), content.offset)


class _Mark:
    """Where items begin."""


class _Machine:
    """Runs a pickle's instructions on a stack, as Python's does, but on descriptions."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_INSTRUCTIONS):
            code = self._read(1)
            if code == b".":
                if len(self._stack) != 1 or self._file.tell() != self._size:
                    raise ValueError("the pickle does not end where the file does")
                return _settle(self._stack[0])
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise ValueError(f"asks for the pickle instruction {code!r}, which is refused")
            instruction(self)
        raise ValueError(f"more than {_MAX_INSTRUCTIONS} pickle instructions")

    def _read(self, length: int) -> bytes:
        content = self._file.read(length)
        if len(content) != length:
            raise ValueError("the file ends early")
        return content

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self._read(struct.calcsize(layout)))[0]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        if not self._stack:
            raise ValueError("the pickle takes more than it puts")
        return self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        values = []
        while not isinstance(value := self.pop(), _Mark):
            values.append(value)
        return values[::-1]

    def text(self, layout: str) -> None:
        length = self.number(layout)
        if length > _MAX_TEXT_BYTES:
            raise ValueError(f"a string of {length} bytes, expected at most {_MAX_TEXT_BYTES}")
        self.push(self._read(length).decode())

    def content(self, layout: str) -> None:
        length, offset = self.number(layout), self._file.tell()
        if length > self._size - offset:
            raise ValueError(f"claims {length} bytes at {offset}, but the file has {self._size}")
        self._file.seek(length, os.SEEK_CUR)
        self.push(_Bytes(offset, length))

    def integer(self) -> None:
        self.push(int.from_bytes(self._read(self.number("<B")), "little", signed=True))

    def put(self, index: int | None = None) -> None:
        value = self.pop()
        self._memo[len(self._memo) if index is None else index] = value
        self.push(value)

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise ValueError(f"no {index} was remembered")
        self.push(self._memo[index])

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("asks for something that has no name")
        full = f"{module}.{name}"
        if full not in _GLOBALS:
            raise ValueError(f"asks for {full[:200]}, which is refused")
        self.push(_Global(full))

    def line(self) -> str:
        return self._file.readline(_MAX_TEXT_BYTES).decode().rstrip("\n")

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        name = function.name if isinstance(function, _Global) else _kind(function)
        if not isinstance(arguments, tuple) or name not in (*_RECONSTRUCT, "numpy.dtype"):
            raise ValueError(f"calls {name}, which is refused")
        if name in _RECONSTRUCT:
            if not arguments or arguments[0] != _Global("numpy.ndarray"):
                raise ValueError("makes an array of another type than numpy.ndarray")
            self.push(_Unbuilt())
            return
        code = arguments[0] if arguments else None
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError(f"a dtype {str(code)[:40]!r}, expected plain numbers")
        self.push(_Dtype(code))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if not isinstance(target, _Unbuilt | _Dtype):
            raise ValueError(f"sets the state of {_kind(target)}, which is refused")
        target.build(state)
        self.push(target)

    def extend_list(self, values: list[Any]) -> None:
        if not self._stack or not isinstance(self._stack[-1], list):
            raise ValueError("appends to what is not a list")
        self._stack[-1].extend(_settle(value) for value in values)

    def extend_dict(self, values: list[Any]) -> None:
        target = self._stack[-1] if self._stack else None
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("sets items of what is not a dictionary")
        if not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("a dictionary key that is not a string")
        target.update(zip(values[::2], map(_settle, values[1::2]), strict=True))

    def take(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]


def _settle(value: Any) -> Any:
    """Replace an array that was built by what it became."""
    return value.built if isinstance(value, _Unbuilt) and value.built is not None else value


def _kind(value: Any) -> str:
    return type(value).__name__.lstrip("_")


_Instruction = Callable[[_Machine], Any]
_INSTRUCTIONS: dict[bytes, _Instruction] = {
    b"\x80": lambda m: m.number("<B"),  # protocol
    b"\x95": lambda m: m.number("<Q"),  # frame
    b"(": lambda m: m.push(_Mark()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8a": _Machine.integer,
    b"\x8c": lambda m: m.text("<B"),
    b"X": lambda m: m.text("<I"),
    b"\x8d": lambda m: m.text("<Q"),
    b"C": lambda m: m.content("<B"),
    b"B": lambda m: m.content("<I"),
    b"\x8e": lambda m: m.content("<Q"),
    b"\x94": lambda m: m.put(),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": lambda m: m.find(*m.take(2)),
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push(tuple(m.take(1))),
    b"\x86": lambda m: m.push(tuple(m.take(2))),
    b"\x87": lambda m: m.push(tuple(m.take(3))),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.extend_list(m.take(1)),
    b"e": lambda m: m.extend_list(m.pop_to_mark()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.extend_dict(m.take(2)),
    b"u": lambda m: m.extend_dict(m.pop_to_mark()),
}
