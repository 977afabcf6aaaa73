"""Writes sequences as PoseTrack17, PoseTrack18/21 and HiEve files.

Coordinates and scores are written unrounded: rounding makes ties, and ties move AP.
"""

import json
import os
from pathlib import Path

import numpy as np

from tdpose_jax.annotation_types import FrameLabel, PersonLabel, SequenceLabel
from tdpose_jax.skeleton import OFFICIAL_TO_SLOT, SKELETONS

# What poseval gives a joint without a score.
NO_SCORE = -9999.0


def save_posetrack17(sequence: SequenceLabel, path: str | Path) -> None:
    """Writes a submission in the 2017 form, which poseval takes against any PoseTrack.

    Every frame is present. A frame without persons gets one dummy (joint 0 at (0, 0),
    score -100), as published code does: poseval's MOTA punishes empty frames, and its
    AP ignores a false positive that ranks below everything.

    Raises:
      ValueError: if the skeleton is not posetrack.
    """
    _require_skeleton(sequence, "posetrack")
    slots = dict(enumerate(OFFICIAL_TO_SLOT))
    dummy = {
        "annopoints": [
            {"point": [{"id": [0], "x": [0.0], "y": [0.0], "score": [-100.0]}]}
        ],
        "score": [0.0],
        "track_id": [0],
    }
    annolist = []
    for i, frame in enumerate(sequence.frames):
        rects = [
            _annorect(person, track_id, slots)
            for person, track_id in zip(frame.persons, _track_ids(frame), strict=True)
        ]
        annolist.append(
            {
                "image": {"name": frame.image_name},
                "imgnum": [i + 1],
                "annorect": rects or [dummy],
            }
        )
    _write(path, {"annolist": annolist})


def save_hieve(sequence: SequenceLabel, path: str | Path) -> None:
    """Writes HiEve's pose and pose-tracking form; a submission names it `20.json` etc.

    Raises:
      ValueError: if the skeleton is not hieve.
    """
    _require_skeleton(sequence, "hieve")
    slots = {i: i for i in range(14)}
    annolist = []
    for i, frame in enumerate(sequence.frames):
        rects = []
        for person, track_id in zip(frame.persons, _track_ids(frame), strict=True):
            rect = _annorect(person, track_id, slots)
            if person.person_box_xywh is not None:
                x, y, w, h = person.person_box_xywh.tolist()
                rect |= {"x1": [x], "y1": [y], "x2": [x + w], "y2": [y + h]}
            rects.append(rect)
        annolist.append(
            {
                "image": [{"name": frame.image_name}],
                "imgnum": [i + 1],
                "ignore_regions": _regions_17(frame),
                "annorect": rects,
            }
        )
    _write(path, {"annolist": annolist})


def save_posetrack18(sequence: SequenceLabel, path: str | Path) -> None:
    """Writes the 2018/2021 form: ground truth or predictions, any skeleton.

    Every frame is present, in order, with its image id (1, 2, ... if none has one).
    `scores` is empty if no joint has a score. Persons without a track id get one that
    is unique in their frame, since the PoseTrack21 kit refuses files without.
    """
    skeleton = SKELETONS[sequence.skeleton]
    ids = [frame.image_id for frame in sequence.frames]
    if any(image_id is None for image_id in ids):
        ids = list(range(1, len(ids) + 1))
    images, annotations = [], []
    for image_id, frame in zip(ids, sequence.frames, strict=True):
        images.append(
            {
                "file_name": frame.image_name,
                "id": image_id,
                "frame_id": image_id,
                "nframes": len(ids),
                "is_labeled": frame.is_labeled,
                "ignore_regions_x": [p[:, 0].tolist() for p in frame.ignore_polygons],
                "ignore_regions_y": [p[:, 1].tolist() for p in frame.ignore_polygons],
            }
        )
        for i, (person, track_id) in enumerate(
            zip(frame.persons, _track_ids(frame), strict=True)
        ):
            annotation = {
                "id": image_id * 100 + i,
                "image_id": image_id,
                "category_id": 1,
                "track_id": track_id,
                "keypoints": person.keypoints_xyv.ravel().tolist()
                if person.has_points
                else [],
                "scores": _scores_18(person),
            }
            if person.score is not None:
                annotation["score"] = person.score
            if person.person_box_xywh is not None:
                annotation["bbox"] = person.person_box_xywh.tolist()
            if person.head_box_xyxy is not None:
                x1, y1, x2, y2 = person.head_box_xyxy.tolist()
                annotation["bbox_head"] = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(annotation)
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.joints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],
    }
    _write(
        path,
        {"images": images, "annotations": annotations, "categories": [category]},
    )


def _require_skeleton(sequence: SequenceLabel, name: str) -> None:
    if sequence.skeleton != name:
        raise ValueError(
            f"sequence {sequence.name!r} has the skeleton {sequence.skeleton!r}; this "
            f"form is for {name!r}; save_posetrack18 writes any skeleton"
        )


def _annorect(person: PersonLabel, track_id: int, slots: dict[int, int]) -> dict:
    points = []
    for joint_id, slot in slots.items():
        if person.keypoints_xyv[slot].any():
            x, y, _ = person.keypoints_xyv[slot].tolist()
            point = {"id": [joint_id], "x": [x], "y": [y]}
            if not np.isnan(person.joint_scores[slot]):
                point["score"] = [float(person.joint_scores[slot])]
            points.append(point)
    rect = {"annopoints": [{"point": points}] if person.has_points else []}
    if person.score is not None:
        rect["score"] = [person.score]
    return rect | {"track_id": [track_id]}


def _track_ids(frame: FrameLabel) -> list[int]:
    """The frame's own ids; missing ones filled with the smallest unused."""
    used = {p.track_id for p in frame.persons}
    free = (i for i in range(len(frame.persons) + len(used) + 1) if i not in used)
    return [next(free) if p.track_id is None else p.track_id for p in frame.persons]


def _scores_18(person: PersonLabel) -> list[float]:
    missing = np.isnan(person.joint_scores)
    if missing.all():
        return []
    present = person.keypoints_xyv.any(axis=1)
    filled = np.where(present, NO_SCORE, 0.0)
    return np.where(missing, filled, person.joint_scores).tolist()


def _regions_17(frame: FrameLabel) -> list[dict]:
    return [
        {"point": [{"x": [x], "y": [y]} for x, y in polygon.tolist()]}
        for polygon in frame.ignore_polygons
    ]


def _write(path: str | Path, content: dict) -> None:
    """Writes beside the target and renames, so that no half file is ever read."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, allow_nan=False))
    os.replace(partial, path)
