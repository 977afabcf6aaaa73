"""Reads one numeric array of a MATLAB file (versions 5 to 7.2).

`scipy.io.loadmat` crashes the process on some damaged files (seen with mutated real
ones), which no `except` can turn into an error that names the file. The format:
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_TYPES |= {12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)  # double, single, int8 .. uint64
_COMPLEX = 0x0800
_MAX_BYTES = 2**26  # of one uncompressed variable


class MatError(ValueError):
    """The bytes are no readable MATLAB file; the text says why."""


def read_array(data: bytes, name: str) -> np.ndarray | None:
    """The real numeric array of that name; None if the file has no such array.

    Raises:
      MatError: for damaged files and other formats (7.3 is HDF5).
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise MatError("no MATLAB 5 header (files of version 7.3: save with -v7)")
    for kind, body in _elements(data[128:], order):
        if kind == _COMPRESSED:
            kind, body = next(_elements(_inflate(body), order), (0, b""))
        if kind == _MATRIX:
            found = _matrix(body, name, order)
            if found is not None:
                return found
    return None


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of each data element."""
    at = 0
    while at + 8 <= len(data):
        (tag,) = struct.unpack_from(order + "I", data, at)
        if tag >> 16:  # small element: size and type share four bytes
            kind, size, start, end = tag & 0xFFFF, tag >> 16, at + 4, at + 8
            if size > 4:
                raise MatError("an element is larger than its place")
        else:
            kind = tag
            (size,) = struct.unpack_from(order + "I", data, at + 4)
            start = at + 8
            padding = 0 if kind == _COMPRESSED else -size % 8
            end = start + size + padding
        if start + size > len(data):
            raise MatError("an element reaches beyond the file's end")
        yield kind, data[start : start + size]
        at = end


def _inflate(data: bytes) -> bytes:
    try:
        stream = zlib.decompressobj()
        out = stream.decompress(data, _MAX_BYTES)
    except zlib.error as error:
        raise MatError(f"compressed data is damaged ({error})") from error
    if not stream.eof:
        raise MatError("compressed data is cut off or too large")
    return out


def _matrix(body: bytes, name: str, order: str) -> np.ndarray | None:
    parts = _elements(body, order)
    try:
        (_, flags), (_, sizes), (_, title) = next(parts), next(parts), next(parts)
        if title != name.encode():
            return None
        kind, values = next(parts)
    except StopIteration as error:
        raise MatError("a variable is cut off") from error
    if len(flags) < 4 or len(sizes) % 4:
        raise MatError(f"variable {name} has a damaged header")
    (flag,) = struct.unpack_from(order + "I", flags)
    if flag & 0xFF not in _NUMERIC_CLASSES or flag & _COMPLEX or kind not in _TYPES:
        return None
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    array = np.dtype(order + _TYPES[kind])
    if min(shape, default=-1) < 0 or math.prod(shape) * array.itemsize != len(values):
        raise MatError(f"variable {name} holds other than its {shape} values")
    return np.frombuffer(values, array).reshape(shape, order="F")
