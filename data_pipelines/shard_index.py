"""Where each record of a TFRecord shard lies and how many people it has.

TFRecord files have no index, and tf.data can only read them from front to back. The
training order needs single records, in any order, at any step. So each shard is walked
once at start: record headers and the first field of each record are read through a
memory map, the JPEG bytes between them are not (8,000 records take about 0.2 s).

File format: per record 8 bytes length, 4 bytes masked CRC-32C of the length, the data,
4 bytes masked CRC-32C of the data (tensorflow/core/lib/io/record_writer.h).
"""

import dataclasses
import mmap
import os
import struct
from pathlib import Path

import google_crc32c
import numpy as np

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_FEATURES, _ENTRY, _KEY, _VALUE = 0x0A, 0x0A, 0x0A, 0x12  # protobuf tags
_FLOAT_LIST, _PACKED = 0x12, 0x0A


class CorruptRecordError(ValueError):
    """A record cannot be used. The message names the shard, the record and why."""


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The records of one shard, in file order.

    Attributes:
      path: the file.
      offset: [R] int64, where the data of each record begins.
      length: [R] int64, bytes of data.
      num_persons: [R] int64.
      box_score: [sum of num_persons] float32.
    """

    path: Path
    offset: np.ndarray
    length: np.ndarray
    num_persons: np.ndarray
    box_score: np.ndarray


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _field(data, at: int, tag: int) -> tuple[int, int]:
    """Start and end of a length-delimited protobuf field that must have this tag."""
    if data[at] != tag:
        raise ValueError(f"protobuf tag {data[at]:#x} where {tag:#x} was expected")
    size, start = _varint(data, at + 1)
    return start, start + size


def _box_scores(data, at: int) -> np.ndarray:
    """[P] the `box_score` feature of the serialised `tf.train.Example` at `at`.

    Keys are written in sorted order, so this is one of the first bytes of a record.
    """
    at, end = _field(data, at, _FEATURES)
    while at < end:
        entry, at = _field(data, at, _ENTRY)
        key, key_end = _field(data, entry, _KEY)
        if data[key:key_end] == b"box_score":
            value, value_end = _field(data, key_end, _VALUE)
            if value == value_end:
                return np.zeros(0, np.float32)
            floats, floats_end = _field(data, value, _FLOAT_LIST)
            if floats == floats_end:
                return np.zeros(0, np.float32)
            packed, packed_end = _field(data, floats, _PACKED)
            return np.frombuffer(data[packed:packed_end], "<f4")
    raise ValueError("no field box_score")


def index_shard(path: Path) -> ShardIndex:
    """Walks a shard.

    Raises:
      CorruptRecordError: if a header is damaged or the file ends inside a record; what
        follows such a place cannot be found.
    """
    offsets, lengths, scores = [], [], []
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        at = 0
        try:
            while at < size:
                where = f"{path}: record {len(offsets)}"
                if at + _HEADER.size > size:
                    raise CorruptRecordError(f"{where}: the file ends in its header")
                length, crc = _HEADER.unpack_from(data, at)
                if _masked_crc(data[at : at + 8]) != crc:
                    raise CorruptRecordError(f"{where}: its header is damaged")
                start = at + _HEADER.size
                at = start + length + _FOOTER.size
                if at > size:
                    raise CorruptRecordError(f"{where}: the file ends inside it")
                try:
                    scores.append(_box_scores(data, start))
                except (ValueError, IndexError) as error:
                    raise CorruptRecordError(
                        f"{where}: not a record of this project ({error})"
                    ) from error
                offsets.append(start)
                lengths.append(length)
        finally:
            if isinstance(data, mmap.mmap):
                data.close()
    return ShardIndex(
        path=Path(path),
        offset=np.array(offsets, np.int64),
        length=np.array(lengths, np.int64),
        num_persons=np.array([len(s) for s in scores], np.int64),
        box_score=np.concatenate([np.zeros(0, np.float32), *scores]),
    )


def read_record(path: Path, offset: int, length: int) -> bytes:
    """The data of one record, its checksum verified. Safe from many threads.

    Raises:
      CorruptRecordError: if the bytes are not those that were written.
      OSError: if the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), length + _FOOTER.size, offset)
    if len(data) < length + _FOOTER.size:
        raise CorruptRecordError("the file ends inside it")
    payload = data[:length]
    if _masked_crc(payload) != _FOOTER.unpack_from(data, length)[0]:
        raise CorruptRecordError("checksum of its bytes is wrong")
    return payload
