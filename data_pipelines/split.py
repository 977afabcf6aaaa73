"""A built data set's folder, opened and checked: manifest, skeleton, shards, counts."""

import concurrent.futures
import dataclasses
import functools
import json
from pathlib import Path

import ml_collections
import numpy as np

from data_pipelines.shard_index import CorruptRecordError, index_shard, read_record
from tdpose_jax.skeleton import Skeleton, get_skeleton

# What to propose where the folder is missing and its name does not say.
_DATASET_OF_SKELETON = {"posetrack": "posetrack17", "hieve": "hieve", "jhmdb": "jhmdb"}
_DATASETS = ("posetrack17", "posetrack18", "posetrack21", "hieve", "jhmdb", "synthetic")
# First word of a folder of the embedded data set -> flags of its build.
_SYNTHETIC = {"demo": "", "notebook": " --sequences=16,4", "synthetic": ""}
_WINDOW_DELTA_BUILT = 2  # unless the build is told


def build_command(data: ml_collections.ConfigDict) -> str:
    """The command that would make the data set which `config.data` asks for."""
    command = "python -m data_pipelines.build"
    name = Path(data.root).name
    if name.split("_")[0] in _SYNTHETIC:
        command += f" --dataset=synthetic{_SYNTHETIC[name.split('_')[0]]}"
    else:
        named = [d for d in _DATASETS if d in name]
        by_skeleton = _DATASET_OF_SKELETON.get(data.skeleton, "DATASET")
        command += f" --dataset={named[0] if named else by_skeleton} --source=DIR"
    if data.window_delta > _WINDOW_DELTA_BUILT:  # a narrower window is part of it
        command += f" --window_delta={data.window_delta}"
    return f"{command} --output={data.root}"


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a built data set: where everything is, nothing decoded.

    Attributes:
      name: the split's name.
      skeleton: the joints of its people.
      window_delta_built: frames to each side of the keyframe in every record.
      shard_paths: the shards.
      shard_of_record, offset, length: [R] where each record lies.
      record_in_shard: [R] its number inside the shard, for messages.
      first_person: [R + 1] people of record r are `first_person[r]:first_person[r+1]`.
      box_score: [N] score of each person's box.
    """

    name: str
    skeleton: Skeleton
    window_delta_built: int
    shard_paths: tuple[Path, ...]
    shard_of_record: np.ndarray
    record_in_shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    first_person: np.ndarray
    box_score: np.ndarray

    @property
    def num_persons(self) -> int:
        """N, people in all records."""
        return int(self.first_person[-1])

    @functools.cached_property
    def record_of_person(self) -> np.ndarray:
        """[N] record of each person."""
        return np.repeat(np.arange(len(self.length)), np.diff(self.first_person))

    def where(self, record: int) -> str:
        """`shard: record number`, for messages."""
        path = self.shard_paths[self.shard_of_record[record]]
        return f"{path}: record {self.record_in_shard[record]}"

    def read(self, record: int) -> bytes:
        """Raises: CorruptRecordError: if the bytes are not those written."""
        try:
            return read_record(
                self.shard_paths[self.shard_of_record[record]],
                int(self.offset[record]),
                int(self.length[record]),
            )
        except OSError as error:
            raise CorruptRecordError(f"{self.where(record)}: {error}") from error


def _load_manifest(data: ml_collections.ConfigDict) -> dict:
    path = Path(data.root) / "manifest.json"
    if not path.is_file():
        found = "it does not exist" if not path.parent.exists() else "it has none"
        raise FileNotFoundError(
            f"no data set in {str(path.parent.absolute())!r} (config.data.root): it "
            f"must hold manifest.json and TFRecord shards, {found}. Build it with: "
            f"{build_command(data)}"
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path}: not JSON ({error}). Build the data set again with: "
            f"{build_command(data)}"
        ) from error


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Checks a built split against `config.data` and finds every record.

    Raises:
      FileNotFoundError: no such folder, or a shard is missing.
      ValueError: skeleton, window or split do not fit the config; a shard has not the
        size or the counts that the manifest says; the split is empty.
    """
    manifest = _load_manifest(data)
    path = Path(data.root) / "manifest.json"
    if manifest["skeleton"] != data.skeleton:
        raise ValueError(
            f"{path}: the data set has skeleton {manifest['skeleton']!r}, "
            f"config.data.skeleton is {data.skeleton!r}; set it to the former or "
            "choose another config.data.root"
        )
    if data.window_delta > manifest["window_delta"]:
        raise ValueError(
            f"{path}: the data set was built with window_delta "
            f"{manifest['window_delta']}, config.data.window_delta is "
            f"{data.window_delta}; lower it, or build again with --window_delta="
            f"{data.window_delta}"
        )
    if split not in manifest["splits"]:
        raise ValueError(
            f"{path}: no split {split!r}; the data set has "
            f"{', '.join(sorted(manifest['splits'])) or 'none'}"
        )
    entries = manifest["splits"][split]["shards"]
    paths = tuple(Path(data.root) / entry["file"] for entry in entries)
    remedy = f"copy it again or rebuild the data set: {build_command(data)}"
    for shard, entry in zip(paths, entries, strict=True):
        if not shard.is_file():
            raise FileNotFoundError(f"{shard}: the shard is missing; {remedy}")
        if shard.stat().st_size != entry["bytes"]:
            raise ValueError(
                f"{shard}: the shard has {shard.stat().st_size} bytes, manifest.json "
                f"says {entry['bytes']}; {remedy}"
            )
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            indices = list(pool.map(index_shard, paths))
    except CorruptRecordError as error:
        raise ValueError(f"{error}; {remedy}") from error
    for index, entry in zip(indices, entries, strict=True):
        found = len(index.length), int(index.num_persons.sum())
        expected = entry["num_records"], entry["num_persons"]
        if found != expected:
            raise ValueError(
                f"{index.path}: the shard has {found[0]} records and {found[1]} people,"
                f" manifest.json says {expected[0]} and {expected[1]}; {remedy}"
            )
    persons = [index.num_persons for index in indices]
    if not sum(p.sum() for p in persons):
        raise ValueError(
            f"{path}: split {split!r} holds no person; choose another split or check "
            "`skipped` in the manifest"
        )
    return Split(
        name=split,
        skeleton=get_skeleton(data.skeleton),
        window_delta_built=manifest["window_delta"],
        shard_paths=paths,
        shard_of_record=np.repeat(np.arange(len(indices)), [len(p) for p in persons]),
        record_in_shard=np.concatenate([np.arange(len(p)) for p in persons]),
        offset=np.concatenate([index.offset for index in indices]),
        length=np.concatenate([index.length for index in indices]),
        first_person=np.concatenate([[0], np.cumsum(np.concatenate(persons))]),
        box_score=np.concatenate([index.box_score for index in indices]),
    )
