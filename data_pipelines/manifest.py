"""`manifest.json`: what a built data set holds, and the check that it still does.

It is written last, so a folder with a manifest is complete. Its `splits` count records
and persons and give every shard's SHA-256; `ground_truth` does so for the label files;
`skipped` lists what was left out and why.
"""

import hashlib
import json
from pathlib import Path

from data_pipelines.shards import (
    FORMAT_VERSION,
    ShardJob,
    ShardResult,
    file_sha256,
)
from data_pipelines.tfds_metadata import dataset_info_json
from data_pipelines.tfrecord import read_records
from tdpose_jax.annotations import AnnotationError

MANIFEST = "manifest.json"


def fingerprint(jobs: list[ShardJob], ground_truth: dict[str, str]) -> str:
    """Of all that decides the data set: frames, people, labels, options, format."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(job.digest.encode())
    for file, sha256 in ground_truth.items():
        digest.update(f"{file} {sha256}".encode())
    return digest.hexdigest()


def make_manifest(
    dataset: str,
    skeleton: str,
    window_delta: int,
    jobs: list[ShardJob],
    results: list[ShardResult],
    skipped: list[tuple[str, str]],
    ground_truth: dict[str, str],
) -> dict:
    """The manifest's content; equal inputs give equal manifests.

    Args:
      jobs: the plan.
      results: one per job, any order.
      skipped: (file, reason) from reading; those of the shards are added.
      ground_truth: {label file below the data set: SHA-256}.
    """
    by_file = {result.file: result for result in results}
    splits: dict[str, dict] = {}
    for job in jobs:
        result = by_file[job.file]
        split = splits.setdefault(
            job.split,
            {"num_records": 0, "num_persons": 0, "num_sequences": 0, "shards": []},
        )
        split["num_records"] += result.num_records
        split["num_persons"] += result.num_persons
        split["shards"].append(
            {
                "file": result.file,
                "num_records": result.num_records,
                "num_persons": result.num_persons,
                "bytes": result.bytes,
                "sha256": result.sha256,
            }
        )
    for name, split in splits.items():
        members = {w.sequence for j in jobs if j.split == name for w in j.windows}
        split["num_sequences"] = len(members)
        split["ground_truth"] = f"ground_truth/{ground_truth_split(name)}"
    notes = {*skipped, *(note for result in results for note in result.skipped)}
    return {
        "format_version": FORMAT_VERSION,
        "dataset": dataset,
        "skeleton": skeleton,
        "window_delta": window_delta,
        "source_fingerprint": fingerprint(jobs, ground_truth),
        "splits": splits,
        "ground_truth": [
            {"file": file, "sha256": sha256} for file, sha256 in ground_truth.items()
        ],
        "skipped": [{"file": f, "reason": r} for f, r in sorted(notes)],
    }


def ground_truth_split(split: str) -> str:
    """The split whose labels score `split`: `val` for `val_detections`."""
    return split.removesuffix("_detections")


def load_manifest(folder: Path) -> dict:
    """Reads a data set's manifest.

    Raises:
      AnnotationError: if the folder holds no complete data set of this version.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise AnnotationError(
            f"{path}: missing, so {folder} holds no complete data set; build it with "
            f"python -m data_pipelines.build --dataset=.. --source=.. --output={folder}"
        ) from error
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: not readable ({error}); build again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise AnnotationError(
            f"{path}: field format_version is {version!r}, this code reads "
            f"{FORMAT_VERSION}; build the data set again"
        )
    return content


def verify(folder: Path) -> list[str]:
    """Compares a data set with its manifest.

    Returns:
      One line per fault, naming the file; empty if all is well.

    Raises:
      AnnotationError: if there is no readable manifest.
    """
    manifest = load_manifest(folder)
    faults = []
    try:
        for name, split in manifest["splits"].items():
            records = persons = 0
            for shard in split["shards"]:
                faults += _shard_faults(folder, shard)
                records += shard["num_records"]
                persons += shard["num_persons"]
            if (records, persons) != (split["num_records"], split["num_persons"]):
                faults.append(
                    f"{MANIFEST}: split {name} counts {split['num_records']} records "
                    f"and {split['num_persons']} persons, its shards {records} and "
                    f"{persons}"
                )
        for entry in manifest["ground_truth"]:
            faults += _file_faults(folder, entry["file"], entry["sha256"])
        faults += _metadata_faults(folder, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise AnnotationError(
            f"{folder / MANIFEST}: incomplete ({error!r}); build the data set again"
        ) from error
    return faults


def _metadata_faults(folder: Path, manifest: dict) -> list[str]:
    """TFDS may have rewritten its files in its own words; the counts must agree."""
    faults = []
    expected = json.loads(dataset_info_json(manifest["dataset"], manifest["splits"]))
    try:
        info = json.loads((folder / "dataset_info.json").read_bytes())
        found = {s["name"]: s["shardLengths"] for s in info["splits"]}
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != {s["name"]: s["shardLengths"] for s in expected["splits"]}:
        faults.append(f"dataset_info.json: does not agree with {MANIFEST}")
    if not (folder / "features.json").is_file():
        faults.append("features.json: missing")
    return faults


def _shard_faults(folder: Path, shard: dict) -> list[str]:
    faults = _file_faults(folder, shard["file"], shard["sha256"], shard["bytes"])
    if faults:
        return faults
    try:
        count = sum(1 for _ in read_records(folder / shard["file"]))
    except ValueError as error:
        return [str(error)]
    if count != shard["num_records"]:
        return [
            f"{shard['file']}: holds {count} records, the manifest says "
            f"{shard['num_records']}"
        ]
    return []


def _file_faults(
    folder: Path, name: str, sha256: str, size: int | None = None
) -> list[str]:
    path = folder / name
    if not path.is_file():
        return [f"{name}: missing"]
    found = path.stat().st_size
    if size is not None and found != size:
        return [f"{name}: {found} bytes, the manifest says {size}"]
    if file_sha256(path) != sha256:
        return [f"{name}: SHA-256 differs from the manifest's; the file was damaged"]
    return []
