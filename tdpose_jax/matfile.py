"""Reads MATLAB level-5 files (save -v6, -v7), the form of PoseTrack17 and JHMDB labels.

scipy.io.loadmat crashes the interpreter on damaged files (measured: a segmentation fault
within 40 random mutations of a real file, scipy 1.17.1), which no exception handler can
turn into a message. This reader knows the few array classes that labels use and checks
every length. Format: MathWorks, "MAT-File Level 5 File Format".
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from tdpose_jax.annotation_fields import FieldError
from tdpose_jax.annotation_types import AnnotationError

_DTYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
    16: "u1",
    17: "u2",
    18: "u4",
}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = range(6, 16)
_MAX_BYTES = 1 << 29  # of one decompressed variable; label files have a few MB
_MAX_DEPTH = 16
_REMEDY = "save the file again with MATLAB's -v7"


def load_mat(path: str | Path) -> dict[str, object]:
    """All variables of a file.

    Returns:
      Name -> value. A number array is an ndarray of MATLAB's shape, text a str, a struct
      a dict, a struct array (other than 1x1) a list of dicts, a cell array a list; the
      lists are in MATLAB's (column-major) order.

    Raises:
      AnnotationError: if the file is unreadable, damaged, or not of level 5.
    """
    try:
        return read_mat_variables(Path(path))
    except FieldError as error:
        raise AnnotationError(f"{path}: {error.describe()}") from None


def read_mat_variables(path: Path) -> dict[str, object]:
    """`load_mat` for callers that add the file's name to a FieldError themselves."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FieldError(
            f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
        raise FieldError("is not a readable MATLAB file (no level-5 header)", _REMEDY)
    order = "<" if data[126:128] == b"IM" else ">"
    variables = {}
    reader = _Reader(memoryview(data)[128:], order)
    while reader.left():
        kind, body = reader.element()
        if kind == _COMPRESSED:
            kind, body = _Reader(_decompress(body), order).element()
        if kind != _MATRIX:
            raise _damaged(f"data type {kind} where a variable should be")
        name, value = _array(_Reader(body, order), depth=0)
        variables[name] = value
    return variables


def _damaged(why: str) -> FieldError:
    return FieldError(f"is not a readable MATLAB file ({why})", _REMEDY)


def _decompress(body: memoryview) -> memoryview:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(body, _MAX_BYTES)
    except zlib.error as error:
        raise _damaged(f"zlib: {error}") from None
    if not stream.eof:
        raise _damaged("a compressed variable is cut off or too large")
    return memoryview(data)


class _Reader:
    """Takes data elements off the front of a buffer, never past its end."""

    def __init__(self, data: memoryview, order: str):
        self.data, self.order, self.position = data, order, 0

    def left(self) -> bool:
        return self.position < len(self.data)

    def element(self) -> tuple[int, memoryview]:
        """Type and body of the next element."""
        head = self._take(4)
        word = struct.unpack(self.order + "I", head)[0]
        if word >> 16:  # the small form: size and up to four bytes in one word each
            size, kind = word >> 16, word & 0xFFFF
            if size > 4:
                raise _damaged(f"a small element of {size} bytes")
            return kind, self._take(4)[:size]
        size = struct.unpack(self.order + "I", self._take(4))[0]
        body = self._take(size)
        if word != _COMPRESSED:
            self.position = min(len(self.data), self.position + -size % 8)
        return word, body

    def numbers(self) -> np.ndarray:
        """The next element as a flat array."""
        kind, body = self.element()
        if kind not in _DTYPES:
            raise _damaged(f"data type {kind} where numbers should be")
        dtype = np.dtype(self.order + _DTYPES[kind])
        if len(body) % dtype.itemsize:
            raise _damaged("a number is cut off")
        return np.frombuffer(body, dtype)

    def integers(self) -> list[int]:
        values = self.numbers()
        if values.dtype.kind == "f":
            raise _damaged("fractions where integers should be")
        return values.tolist()

    def text(self) -> str:
        codes = self.integers()
        if codes and not 0 <= min(codes) <= max(codes) <= 0x10FFFF:
            raise _damaged("a character that does not exist")
        return "".join(map(chr, codes))

    def _take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.data):
            raise _damaged("it ends too early")
        taken = self.data[self.position : end]
        self.position = end
        return taken


def _array(reader: _Reader, depth: int) -> tuple[str, object]:
    """Name and value of the array whose element body `reader` holds."""
    if not reader.left():  # MATLAB's short form of []
        return "", np.zeros((0, 0))
    if depth > _MAX_DEPTH:
        raise _damaged("arrays are nested too deeply")
    flags = reader.integers()
    shape = reader.integers()
    name = reader.text()
    if len(flags) < 1 or len(shape) < 2 or len(shape) > 8 or min(shape) < 0:
        raise _damaged("an array without class or shape")
    kind = flags[0] & 0xFF
    count = 1
    for n in shape:
        count *= n
    if kind in (_CELL, _STRUCT):
        return name, _container(reader, kind, count, depth)
    if kind != _CHAR and kind not in _NUMERIC:
        raise _damaged(f"array class {kind}, which labels do not use")
    if kind == _CHAR:  # a row; labels use no text matrices
        return name, reader.text()
    values = reader.numbers()
    if len(values) != count:
        raise _damaged(f"{len(values)} values in an array of {count}")
    return name, values.reshape(shape, order="F")


def _container(reader: _Reader, kind: int, count: int, depth: int) -> object:
    keys = [""]
    if kind == _STRUCT:
        length = reader.integers()
        names = reader.text()
        if len(length) != 1 or length[0] < 1 or len(names) % length[0]:
            raise _damaged("field names of no length")
        step = length[0]
        cut = (names[i : i + step] for i in range(0, len(names), step))
        keys = [text.split("\0")[0] for text in cut]
    # Each child takes 8 bytes at least: a false count fails here, not after hours.
    if count * max(len(keys), 1) > len(reader.data) // 8:
        raise _damaged("more elements than the file can hold")
    children = []
    for _ in range(count):
        values = []
        for _ in keys:
            child, body = reader.element()
            if child != _MATRIX:
                raise _damaged(f"data type {child} where an array should be")
            values.append(_array(_Reader(body, reader.order), depth + 1)[1])
        children.append(values)
    if kind == _CELL:
        return [values[0] for values in children]
    structs = [dict(zip(keys, values, strict=True)) for values in children]
    return structs[0] if count == 1 else structs
