"""PoseTrack17, 18 and 21 as users have them on disk -> `VideoSource`s.

One annotation file per sequence (2017: `annolist` JSON or .mat; 2018 and 2021: COCO-like
JSON), or the community's one COCO file per split. What a file says is read by
`tdpose_jax.annotations`; this module knows folders, and how a merged file splits into
sequences.
"""

import dataclasses
from pathlib import Path, PurePosixPath

from data_pipelines.sources import (
    VideoSource,
    check_split,
    find_frames,
    frame_number,
    inside,
    list_images,
    missing_source,
)
from tdpose_jax.annotation_fields import FieldError, read_json
from tdpose_jax.annotation_posetrack18 import parse_coco_like
from tdpose_jax.annotations import (
    AnnotationError,
    FrameLabel,
    SequenceLabel,
    load_annotations,
)
from tdpose_jax.skeleton import POSETRACK

SPLITS = ("train", "val", "test")
LAYOUT = """  annotations/{train,val}/<sequence>.json (PoseTrack17 also .mat; PoseTrack21 also
  posetrack_data/{train,val}/), or one COCO file annotations/*_{train,val}.json
  images/... as the annotation files name them"""
# Folders that hold one file per sequence, and patterns of merged COCO files.
SEQUENCE_FOLDERS = ("annotations", "posetrack_data")
MERGED_FILES = ("annotations/*_{}.json", "*_{}.json", "*/*posetrack*_{}.json")


def read_posetrack(source: Path, dataset: str) -> dict[str, list[VideoSource]]:
    """All sequences by split; splits that have no folder and no file are left out.

    Raises:
      AnnotationError: naming file, field and remedy.
    """
    splits = {}
    for split in SPLITS:
        folder = next(
            (f for name in SEQUENCE_FOLDERS if (f := source / name / split).is_dir()),
            None,
        )
        if folder is not None:
            videos = read_folder(source, folder)
            check_split(videos, split, folder)
        elif merged := _merged_file(source, split):
            videos = read_merged(source, merged)
            check_split(videos, split, merged)
        else:
            continue
        splits[split] = videos
    if not splits:
        raise missing_source(source, dataset, LAYOUT)
    return splits


def read_folder(
    source: Path, folder: Path, joint_ids: str = "auto"
) -> list[VideoSource]:
    """One sequence per .json or .mat file of `folder`."""
    videos = []
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".mat"):
            label = load_annotations(path, joint_ids)
            paths = find_frames(source, label, str(path))
            videos.append(VideoSource(label=label, frame_paths=paths))
    return videos


def read_merged(source: Path, path: Path) -> list[VideoSource]:
    """The sequences of a merged COCO file, one per folder of its images.

    A sequence's frames are those the file lists and those on disk beside them: some
    such files list labelled frames only, whose neighbours are needed for the window.
    """
    videos = []
    try:
        content = read_json(path)
    except FieldError as error:
        raise AnnotationError(f"{path}: {error.describe()}") from error
    for name, part in split_merged(content, str(path)).items():
        try:
            label = parse_coco_like(part, name)
        except FieldError as error:
            raise AnnotationError(
                f"{path}: sequence {name}: {error.describe()}"
            ) from error
        label, paths = _with_neighbours(source, label, str(path))
        videos.append(VideoSource(label=label, frame_paths=paths))
    return videos


def split_merged(content: dict, where: str) -> dict[str, dict]:
    """One PoseTrack18-form dict per video folder, frames in order of their number.

    PoseTrack17's merged form has no joint names; its columns are PoseTrack18's.

    Raises:
      AnnotationError: if images or annotations are not lists of objects that name
        their file and image.
    """
    tables = []
    for field, key, kind in (
        ("images", "file_name", str),
        ("images", "id", int),
        ("annotations", "image_id", int),
    ):
        rows = content.get(field) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise AnnotationError(f"{where}: field {field} is not a list")
        for i, row in enumerate(rows):
            if not isinstance(row, dict) or type(row.get(key)) is not kind:
                raise AnnotationError(
                    f"{where}: field {field}[{i}].{key} is missing or no "
                    f"{'text' if kind is str else 'whole number'}"
                )
        tables.append(rows)
    images, _, annotations = tables
    folders: dict[str, list[dict]] = {}
    for image in images:
        folder = str(PurePosixPath(image["file_name"]).parent)
        folders.setdefault(folder, []).append(image)
    names = _sequence_names(list(folders))
    people: dict[int, list[dict]] = {}
    for annotation in annotations:
        people.setdefault(annotation["image_id"], []).append(annotation)
    known = {image["id"] for image in images}
    if lost := next((i for i in people if i not in known), None):
        raise AnnotationError(
            f"{where}: an annotation names image_id {lost}, which no image has"
        )
    categories = content.get("categories")
    if not (
        isinstance(categories, list)
        and len(categories) == 1
        and isinstance(categories[0], dict)
        and categories[0].get("keypoints")
    ):
        categories = [{"id": 1, "name": "person", "keypoints": list(POSETRACK.joints)}]
    out = {}
    for folder, rows in folders.items():
        rows = sorted(
            rows, key=lambda r: (frame_number(r["file_name"]) or 0, r["file_name"])
        )
        out[names[folder]] = {
            "images": rows,
            "annotations": [a for row in rows for a in people.get(row["id"], [])],
            "categories": categories,
        }
    return out


def _sequence_names(folders: list[str]) -> dict[str, str]:
    """Last folder as the name; two videos of one name get the folders above too."""
    last = [PurePosixPath(folder).name or "sequence" for folder in folders]
    return {
        folder: name if last.count(name) == 1 else folder.replace("/", "_")
        for folder, name in zip(folders, last, strict=True)
    }


def _merged_file(source: Path, split: str) -> Path | None:
    for pattern in MERGED_FILES:
        found = sorted(source.glob(pattern.format(split)))
        if len(found) > 1:
            raise AnnotationError(
                f"{source}: {len(found)} files could be the labels of split {split!r} "
                f"({', '.join(path.name for path in found)}); leave one"
            )
        if found:
            return found[0]
    return None


def _with_neighbours(
    source: Path, label: SequenceLabel, where: str
) -> tuple[SequenceLabel, tuple[Path, ...]]:
    """Adds the unlisted images of the sequence's folder as unlabelled frames."""
    paths = find_frames(source, label, where)
    listed = {path.name for path in paths}
    folder, name_folder = (
        paths[0].parent,
        PurePosixPath(label.frames[0].image_name).parent,
    )
    rows = list(zip(label.frames, paths, strict=True))
    for image in list_images(folder):
        if image not in listed and frame_number(image) is not None:
            name = str(name_folder / image)
            inside(source, name, where)
            rows.append((FrameLabel(name, is_labeled=False), folder / image))
    rows.sort(key=lambda row: (frame_number(row[1].name) or 0, row[1].name))
    label = dataclasses.replace(label, frames=tuple(frame for frame, _ in rows))
    return label, tuple(path for _, path in rows)
