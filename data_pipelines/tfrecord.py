"""TFRecord files and `tf.train.Example` messages without TensorFlow.

A worker that writes shards starts in tenths of a second and stays small, where
importing TensorFlow costs seconds and 0.7 GB each; and the bytes depend on no
protobuf version. The tests hold both against TensorFlow's own.

An Example is a protobuf map from name to one list of bytes, floats or integers:
https://www.tensorflow.org/tutorials/load_data/tfrecord. Keys are sorted here.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import google_crc32c
import numpy as np

_LENGTH_DELIMITED = 2
# Field numbers of tf.train.Feature
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def encode_example(features: Mapping[str, Sequence[bytes] | np.ndarray]) -> bytes:
    """A serialised Example.

    Args:
      features: name -> list of bytes, or a 1-d float32 or int64 array.

    Raises:
      TypeError: for arrays of another type.
    """
    entries = []
    for name in sorted(features):
        value = features[name]
        if not isinstance(value, np.ndarray):
            kind = _BYTES_LIST
            values = b"".join(_field(1, item) for item in value)
        elif value.dtype == np.float32:
            kind = _FLOAT_LIST
            values = _packed(value.astype("<f4").tobytes())
        elif value.dtype == np.int64:
            kind = _INT64_LIST
            values = _packed(b"".join(_varint(int(v)) for v in value))
        else:
            raise TypeError(f"feature {name}: {value.dtype} is not float32 or int64")
        feature = _field(kind, values)
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


class TFRecordWriter:
    """Writes records: length, its checksum, data, their checksum."""

    def __init__(self, path: Path):
        self._file = path.open("wb")

    def __enter__(self) -> "TFRecordWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, record: bytes) -> None:
        """Appends one record with its length and both checksums."""
        length = struct.pack("<Q", len(record))
        self._file.write(length + _masked_crc(length))
        self._file.write(record)
        self._file.write(_masked_crc(record))


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a file, checksums compared.

    Raises:
      ValueError: naming the record that is cut off or damaged.
    """
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            length = head[:8]
            intact = len(head) == 12 and head[8:] == _masked_crc(length)
            data = file.read(struct.unpack("<Q", length)[0]) if intact else b""
            if not intact or file.read(4) != _masked_crc(data):
                raise ValueError(f"{path}: record {number} is cut off or damaged")
            yield data
            number += 1


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _packed(payload: bytes) -> bytes:
    return _field(1, payload) if payload else b""


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers travel as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted: a CRC of data that holds CRCs is weak."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
