"""The plan of a data set's shards, and the one function that writes a shard.

The plan depends on the source alone: windows are sorted by a hash of their key and cut
into shards by size. A process pool, a loop or Beam may then write the shards in any
order; the bytes are the same. A shard appears under its name only when it is whole,
with a receipt beside it that says which plan it was written from, so that an
interrupted build goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import os
import secrets
from pathlib import Path

from data_pipelines.frames import read_frame
from data_pipelines.records import to_example
from data_pipelines.tfrecord import TFRecordWriter
from data_pipelines.windows import Window, build_record

FORMAT_VERSION = 1
# Several hosts can share even a small data set, and shuffling mixes several shards.
MIN_SHARDS = 8


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """All that a worker needs to write one shard; picklable.

    Attributes:
      file: name of the shard in `output`.
      digest: of everything that decides the shard's bytes.
      weight: estimated bytes, for the progress bar.
    """

    file: str
    split: str
    output: Path
    receipts: Path
    roots: tuple[Path, ...]
    windows: tuple[Window, ...]
    num_keypoints: int
    digest: str
    weight: int


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """What was written. `skipped` holds (file, reason)."""

    file: str
    split: str
    num_records: int
    num_persons: int
    bytes: int
    sha256: str
    skipped: tuple[tuple[str, str], ...]


def plan_split(
    split: str,
    windows: list[Window],
    *,
    prefix: str,
    output: Path,
    receipts: Path,
    roots: tuple[Path, ...],
    num_keypoints: int,
    shard_bytes: int,
) -> list[ShardJob]:
    """Cuts a split into shards.

    Args:
      prefix: shards are named `<prefix>-<split>.tfrecord-<i>-of-<n>`, TFDS's pattern.
      roots: folders that frame paths lie in; digests and notes use relative paths.
      shard_bytes: wanted size.
    """
    windows = sorted(windows, key=lambda w: (w.order, w.key))
    sizes: dict[Path, int] = {}

    def size(path: Path | None) -> int:
        if path is None:
            return 0
        if path not in sizes:
            try:
                sizes[path] = path.stat().st_size
            except OSError:
                sizes[path] = 0
        return sizes[path]

    weights = [1 + sum(size(p) for p in w.frame_paths) for w in windows]
    total = sum(weights)
    count = max(-(-total // shard_bytes), min(MIN_SHARDS, len(windows)))
    count = min(count, len(windows))
    groups: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for i, weight in enumerate(weights):
        groups[min(before * count // total, count - 1)].append(i)
        before += weight
    groups = [group for group in groups if group]  # one giant window may leave gaps
    jobs = []
    for n, group in enumerate(groups):
        file = f"{prefix}-{split}.tfrecord-{n:05d}-of-{len(groups):05d}"
        members = tuple(windows[i] for i in group)
        digest = hashlib.sha256(f"{FORMAT_VERSION} {file} {num_keypoints}".encode())
        for window in members:
            frames = [
                None if p is None else (relative_name(p, roots), size(p))
                for p in window.frame_paths
            ]
            digest.update(
                json.dumps([window.key, window.frame_name, frames]).encode()
                + window.people.digest()
            )
        jobs.append(
            ShardJob(
                file=file,
                split=split,
                output=output,
                receipts=receipts,
                roots=roots,
                windows=members,
                num_keypoints=num_keypoints,
                digest=digest.hexdigest(),
                weight=sum(weights[i] for i in group),
            )
        )
    return jobs


def finished_shard(job: ShardJob) -> ShardResult | None:
    """The result of an earlier run, if the shard is there, whole and of this plan."""
    try:
        receipt = json.loads((job.receipts / f"{job.file}.json").read_bytes())
        if receipt.pop("digest") != job.digest:
            return None
        receipt["skipped"] = tuple(map(tuple, receipt["skipped"]))
        result = ShardResult(**receipt)
        path = job.output / job.file
        if path.stat().st_size != result.bytes or file_sha256(path) != result.sha256:
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # no receipt, or half a one: write the shard again
    return result


def write_shard(job: ShardJob) -> ShardResult:
    """Writes one shard; whoever calls it, wherever, gets the same bytes.

    Raises:
      OSError: if the output cannot be written.
    """
    done = finished_shard(job)
    if done:
        return done
    skipped: set[tuple[str, str]] = set()

    def note(path: Path, reason: str) -> None:
        skipped.add((relative_name(path, job.roots), reason))

    path = job.output / job.file
    partial = partial_path(path)
    num_records = num_persons = 0
    try:
        with TFRecordWriter(partial) as writer:
            for window in job.windows:
                record = build_record(window, read_frame, note)
                if record is not None:
                    writer.write(to_example(record, job.num_keypoints))
                    num_records += 1
                    num_persons += record.num_persons
        sync(partial)
        result = ShardResult(
            file=job.file,
            split=job.split,
            num_records=num_records,
            num_persons=num_persons,
            bytes=partial.stat().st_size,
            sha256=file_sha256(partial),
            skipped=tuple(sorted(skipped)),
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    receipt = dataclasses.asdict(result) | {"digest": job.digest}
    write_atomically(job.receipts / f"{job.file}.json", to_json(receipt))
    return result


def relative_name(path: Path, roots: tuple[Path, ...]) -> str:
    """POSIX name below the first root that holds the path."""
    for root in roots:
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.as_posix()


def to_json(content: object) -> bytes:
    """Indented UTF-8 with a final newline: equal content gives equal bytes."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def file_sha256(path: Path) -> str:
    """The file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial_path(path: Path) -> Path:
    """A hidden name beside `path` that no other worker on any host uses."""
    return path.with_name(f".{path.name}.partial-{secrets.token_hex(8)}")


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    partial.write_bytes(data)
    sync(partial)
    os.replace(partial, path)


def sync(path: Path) -> None:
    """Onto the disk, so that a rename cannot outrun the content in a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
