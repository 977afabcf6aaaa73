"""Reads PoseTrack2018 and PoseTrack21 per-sequence JSON, the COCO-like form.

The joint names in `categories` decide the mapping, as in poseval, so any column order
works; names of another of our skeletons (JHMDB, HiEve, COCO) select that skeleton.
"""

import dataclasses

import numpy as np

from tdpose_jax import annotation_fields as fields
from tdpose_jax.annotation_fields import FieldError, inside
from tdpose_jax.annotation_types import FrameLabel, PersonLabel, SequenceLabel
from tdpose_jax.skeleton import (
    POSETRACK,
    POSETRACK_OFFICIAL_JOINTS,
    SKELETONS,
    Skeleton,
)


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Which of a file's `num_in_file` joint columns go to which skeleton slots."""

    skeleton: Skeleton
    num_in_file: int
    read: list[int]
    slots: list[int]


def parse_coco_like(content: dict, name: str) -> SequenceLabel:
    """Turns a parsed PoseTrack18 or PoseTrack21 file into a sequence.

    Annotations that name an image the file does not have are an error: poseval loses
    them silently, which turns a mistaken id into a low score.

    Raises:
      FieldError: with the field's path.
    """
    columns = _joint_columns(content)
    with inside(".images"):
        images = fields.as_objects(fields.required(content, "images"))
        if not images:
            raise FieldError("lists no frame", "export the file again")
    position = {}
    for i, image in enumerate(images):
        with inside(f".images[{i}].id"):
            image_id = fields.integer(image.get("id"))
            if image_id in position:
                raise FieldError(f"{image_id} is used twice", "make image ids unique")
            position[image_id] = i
    with inside(".annotations"):
        annotations = fields.as_objects(content.get("annotations"))
        labels = _persons(annotations, columns)
    persons: list[list[PersonLabel]] = [[] for _ in images]
    for i, (annotation, label) in enumerate(zip(annotations, labels, strict=True)):
        with inside(f".annotations[{i}].image_id"):
            image_id = fields.integer(annotation.get("image_id"))
            if image_id not in position:
                raise FieldError(
                    f"no image has the id {image_id}",
                    "take image ids from the ground-truth file",
                )
            persons[position[image_id]].append(label)
    frames = []
    for (image_id, i), image in zip(position.items(), images, strict=True):
        with inside(f".images[{i}]"):
            frames.append(_frame(image, image_id, tuple(persons[i])))
    return SequenceLabel(name, columns.skeleton.name, tuple(frames))


def _joint_columns(content: dict) -> _Columns:
    with inside(".categories"):
        categories = fields.as_objects(fields.required(content, "categories"))
        if len(categories) != 1:
            raise FieldError(
                f"expected one category, got {len(categories)}", "keep person alone"
            )
    with inside(".categories[0].keypoints"):
        names = categories[0].get("keypoints")
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise FieldError("expected a list of joint names", "name every column")
        given = set(names)
        if len(given) != len(names):
            raise FieldError("a joint name occurs twice", "make joint names unique")
        official = set(POSETRACK_OFFICIAL_JOINTS)
        matching = [s for s in SKELETONS.values() if set(s.joints) == given]
        if official <= given <= set(POSETRACK.joints):
            matching = [POSETRACK]
        if not matching:
            raise FieldError(
                f"the {len(names)} joint names are of no known skeleton",
                f"use the joints of one of {', '.join(SKELETONS)}",
            )
    skeleton = matching[0]
    kept = [n for n in names if skeleton.index(n) not in skeleton.unannotated]
    return _Columns(
        skeleton,
        num_in_file=len(names),
        read=[names.index(n) for n in kept],
        slots=[skeleton.index(n) for n in kept],
    )


def _persons(annotations: list[dict], columns: _Columns) -> list[PersonLabel]:
    """All annotations of the file, their numbers converted together (3x faster)."""
    width, num_keypoints = columns.num_in_file, columns.skeleton.num_keypoints
    points, has_points = _rows(annotations, "keypoints", 3 * width)
    keypoints = np.zeros((len(annotations), num_keypoints, 3))
    points = points.reshape(-1, width, 3)[:, columns.read]
    keypoints[np.ix_(has_points, columns.slots)] = points
    listed, has_scores = _rows(annotations, "scores", width)
    scores = np.full((len(annotations), num_keypoints), np.nan)
    scores[np.ix_(has_scores, columns.slots)] = listed[:, columns.read]
    boxes, has_box = _rows(annotations, "bbox", 4)
    heads, has_head = _rows(annotations, "bbox_head", 4)
    heads[:, 2:] += heads[:, :2]
    next_box, next_head = iter(boxes), iter(heads)
    labels = []
    for i, annotation in enumerate(annotations):
        track_id = annotation.get("track_id")
        score = annotation.get("score")
        if track_id is not None:
            with inside(f"[{i}].track_id"):
                track_id = fields.integer(track_id)
        if score is not None:
            with inside(f"[{i}].score"):
                score = fields.number(score)
        labels.append(
            PersonLabel(
                keypoints_xyv=keypoints[i],
                joint_scores=scores[i],
                has_points=bool(has_points[i]),
                head_box_xyxy=next(next_head) if has_head[i] else None,
                person_box_xywh=next(next_box) if has_box[i] else None,
                track_id=track_id,
                score=score,
            )
        )
    return labels


def _rows(
    annotations: list[dict], key: str, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """[M, width] numbers of the annotations that list some, and which do ([N] bool)."""
    listed = [annotation.get(key) for annotation in annotations]
    there = [values is not None and values != [] for values in listed]
    rows = [values for values, found in zip(listed, there, strict=True) if found]
    array = fields.number_table(rows, width)
    if array is None:
        for i, values in enumerate(listed):
            if there[i]:
                with inside(f"[{i}].{key}"):
                    fields.numbers(values, (width,))
        raise AssertionError("unreachable: one of the lists is bad")
    return array, np.array(there, dtype=bool)


def _frame(image: dict, image_id: int, persons: tuple[PersonLabel, ...]) -> FrameLabel:
    with inside(".file_name"):
        name = fields.image_path(image.get("file_name"))
    labeled = image.get("is_labeled")
    if labeled is None:
        labeled = bool(persons)
    else:
        with inside(".is_labeled"):
            labeled = fields.flag(labeled)
    regions = {}
    for key in ("ignore_regions_x", "ignore_regions_y"):
        listed = image.get(key)
        with inside(f".{key}"):
            if listed is not None and not isinstance(listed, list):
                raise FieldError("expected a list of lists", "one list per polygon")
            regions[key] = []
            for r, values in enumerate(listed or ()):
                with inside(f"[{r}]"):
                    regions[key].append(fields.numbers(values, ()))
    xs, ys = regions["ignore_regions_x"], regions["ignore_regions_y"]
    with inside(".ignore_regions_x"):
        if len(xs) != len(ys):
            raise FieldError(
                f"{len(xs)} regions but ignore_regions_y has {len(ys)}",
                "give every region both lists",
            )
        polygons = []
        for r, (x, y) in enumerate(zip(xs, ys, strict=True)):
            with inside(f"[{r}]"):
                polygons.append(fields.polygon(x, y))
    return FrameLabel(
        image_name=name,
        image_id=image_id,
        is_labeled=labeled,
        persons=persons,
        ignore_polygons=tuple(p for p in polygons if p is not None),
    )
