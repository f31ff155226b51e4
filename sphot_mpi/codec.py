"""Frozen records to bytes and back, exactly: a JSON header and raw arrays, no pickle.

The types of a record's fields say how its values are written and read, so that
nothing in the bytes names a class or code. Fields go by name: a field that a reader
does not know is ignored, one that is not there takes its default.

::

    u32 header length | header (UTF-8 JSON) | array 0 | array 1 | ...

The header is ``{"version", "value", "arrays"}``; an array in "value" is its number.
All numbers are little-endian; a float that is not finite is the 16 hex digits of
its bits, so that a NaN keeps its sign.
"""

import json
import math
import re
import struct
import types
import typing
from collections.abc import Callable, Hashable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, IntFlag
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.errors import CodecError
from sphot_mpi.outcomes import TaskOutcome

VERSION = 1

_LENGTH = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
#: What an array may hold: booleans, numbers, text; never objects.
_SCALAR = re.compile(r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<c(8|16)|\|S\d{1,6}|<U\d{1,6}")

Array = NDArray[Any]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Coding:
    """How values of one type become JSON and return; arrays go into, and come from, a list."""

    write: Callable[[Any, list[Array]], Any]
    read: Callable[[Any, list[Array]], Any]


def encode(outcome: TaskOutcome) -> bytes:
    """Return an outcome as bytes.

    Parameters
    ----------
    outcome : TaskOutcome
        Any outcome.

    Returns
    -------
    bytes
        For `decode`.
    """
    return pack(outcome)


def decode(data: bytes) -> TaskOutcome:
    """Return the outcome that `encode` wrote; its arrays are writable copies.

    Raises
    ------
    CodecError
        If the bytes hold no outcome.
    """
    return unpack(TaskOutcome, data)


def pack(record: Any) -> bytes:
    """Return any frozen dataclass as bytes.

    Parameters
    ----------
    record : dataclass instance
        Fields may be str, bool, int, float, Enum, dataclass, ndarray, tuples of these, or None.

    Returns
    -------
    bytes
        For `unpack`.

    Raises
    ------
    CodecError
        If a field's type or value cannot be written.
    """
    arrays: list[Array] = []
    kind: Any = type(record)
    value = _coding(kind).write(record, arrays)
    raw = [np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")).reshape(a.shape) for a in arrays]
    header = {"version": VERSION, "value": value, "arrays": [[_dtype_text(a.dtype), list(a.shape)] for a in raw]}
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *(a.tobytes() for a in raw)])


def unpack(kind: type[R], data: bytes) -> R:
    """Return the record of type `kind` that `pack` wrote.

    Parameters
    ----------
    kind : type
        A dataclass.
    data : bytes
        From `pack`.

    Returns
    -------
    dataclass instance
        Equal to what was packed; its arrays are writable copies.

    Raises
    ------
    CodecError
        If the bytes hold no such record.
    """
    wanted: Any = kind
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        header = json.loads(data[_LENGTH.size : start])
        if header["version"] > VERSION:
            msg = f"a record has format version {header['version']}, newer than {VERSION}; use a newer sphot-mpi"
            raise CodecError(msg)
        record: R = _coding(wanted).read(header["value"], _read_arrays(header["arrays"], data, start))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error) as error:
        if isinstance(error, CodecError):
            raise
        msg = f"these bytes hold no {kind.__name__} ({type(error).__name__}: {error})"
        raise CodecError(msg) from error
    return record


def _read_arrays(entries: list[Any], data: bytes, start: int) -> list[Array]:
    arrays: list[Array] = []
    for text, shape in entries:
        dtype = _read_dtype(text)
        count = math.prod(shape)
        size = count * dtype.itemsize
        if min(shape, default=0) < 0 or start + size > len(data):
            msg = "an array is longer than the record"
            raise CodecError(msg)
        arrays.append(
            np.frombuffer(data, dtype, count, start).reshape(shape).copy() if size else np.empty(shape, dtype)
        )
        start += size
    if start != len(data):
        msg = "the record is longer than its arrays"
        raise CodecError(msg)
    return arrays


def _dtype_text(dtype: np.dtype[Any]) -> Any:
    if dtype.names is None:
        if dtype.subdtype is not None or not _SCALAR.fullmatch(dtype.str):
            msg = f"an array of {dtype} cannot be written"
            raise CodecError(msg)
        return dtype.str
    if np.dtype([(name, dtype[name]) for name in dtype.names]) != dtype:
        msg = f"an array of {dtype} cannot be written: it has gaps"
        raise CodecError(msg)
    return [[name, _dtype_text(dtype[name])] for name in dtype.names]


def _read_dtype(text: Any) -> np.dtype[Any]:
    if isinstance(text, str):
        if not _SCALAR.fullmatch(text):
            msg = f"{text!r} is no type of an array"
            raise CodecError(msg)
        return np.dtype(text)
    return np.dtype([(str(name), _read_dtype(kind)) for name, kind in text])


@cache
def _coding(hint: Hashable) -> _Coding:
    """Return how a type is coded."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    # numpy 2.5 on Python 3.12 has its NDArray as a named alias, which is an origin of its own
    if typing.get_origin(hint) in (np.ndarray, NDArray):
        return _ARRAY
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _optional(hint)
    if typing.get_origin(hint) is tuple:
        return _tuple(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _Coding(lambda value, _: value.value, _enum_reader(hint))
    if is_dataclass(hint) and isinstance(hint, type):
        return _record(hint)
    msg = f"a field of type {hint} cannot be written"
    raise CodecError(msg)


def _enum_reader(kind: type[Enum]) -> Callable[[Any, list[Array]], Any]:
    # bits of a newer program are kept; StrEnum and others refuse what they do not know
    number = int if issubclass(kind, IntFlag) else None
    return lambda node, _: kind(number(node) if number else node)


def _optional(hint: Any) -> _Coding:
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    if len(kinds) != 1:
        msg = f"a field of type {hint} cannot be written"
        raise CodecError(msg)
    inner = _coding(kinds[0])
    return _Coding(
        lambda value, arrays: None if value is None else inner.write(value, arrays),
        lambda node, arrays: None if node is None else inner.read(node, arrays),
    )


def _tuple(hint: Any) -> _Coding:
    kinds = typing.get_args(hint)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        one = _coding(kinds[0])
        return _Coding(
            lambda value, arrays: [one.write(item, arrays) for item in value],
            lambda node, arrays: tuple([one.read(item, arrays) for item in node]),
        )
    inner = [_coding(kind) for kind in kinds]
    return _Coding(
        lambda value, arrays: [c.write(item, arrays) for c, item in zip(inner, value, strict=True)],
        lambda node, arrays: tuple([c.read(item, arrays) for c, item in zip(inner, node, strict=True)]),
    )


def _record(kind: type[Any]) -> _Coding:
    hints = typing.get_type_hints(kind)
    inner = {field.name: _coding(hints[field.name]) for field in fields(kind) if field.init}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}

    def write(value: Any, arrays: list[Array]) -> Any:
        return {name: coding.write(getattr(value, name), arrays) for name, coding in inner.items()}

    def read(node: Any, arrays: list[Array]) -> Any:
        missing = needed - node.keys()
        if missing:
            msg = f"a {kind.__name__} lacks {', '.join(sorted(missing))}"
            raise CodecError(msg)
        return kind(**{name: inner[name].read(node[name], arrays) for name in node if name in inner})

    return _Coding(write, read)


def _write_float(value: Any, _: list[Array]) -> Any:
    if not isinstance(value, float | int | np.floating | np.integer):
        msg = f"{value!r} is no number"
        raise CodecError(msg)
    number = float(value)
    return number if np.isfinite(number) else _FLOAT.pack(number).hex()


def _read_float(node: Any, _: list[Array]) -> float:
    return _FLOAT.unpack(bytes.fromhex(node))[0] if isinstance(node, str) else float(node)


def _write_int(value: Any, _: list[Array]) -> int:
    if not isinstance(value, int | np.integer):
        msg = f"{value!r} is no whole number"
        raise CodecError(msg)
    return int(value)


def _write_bool(value: Any, _: list[Array]) -> bool:
    if not isinstance(value, bool | np.bool_):
        msg = f"{value!r} is neither true nor false"
        raise CodecError(msg)
    return bool(value)


def _write_text(value: Any, _: list[Array]) -> str:
    if not isinstance(value, str):
        msg = f"{value!r} is no text"
        raise CodecError(msg)
    return str(value)


def _write_array(value: Any, arrays: list[Array]) -> int:
    if not isinstance(value, np.ndarray):
        msg = f"{value!r} is no array"
        raise CodecError(msg)
    arrays.append(value)
    return len(arrays) - 1


def _read_array(node: Any, arrays: list[Array]) -> Array:
    if not 0 <= node < len(arrays):
        msg = f"there is no array {node}"
        raise CodecError(msg)
    array: Array = arrays[node]
    return array


_PLAIN: dict[Any, _Coding] = {
    str: _Coding(_write_text, lambda node, _: str(node)),
    bool: _Coding(_write_bool, lambda node, _: bool(node)),
    int: _Coding(_write_int, lambda node, _: int(node)),
    float: _Coding(_write_float, _read_float),
}
_ARRAY = _Coding(_write_array, _read_array)
