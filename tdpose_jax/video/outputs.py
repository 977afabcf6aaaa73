"""Finished frames -> PoseTrack18 JSON, COCO results and CSV, written as they are read.

As in this project's evaluation, a joint's score in the two JSON forms is the heatmap's
peak times the box's score; the CSV has both apart. All coordinates are image pixels.
"""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tdpose_jax.skeleton import Skeleton
from tdpose_jax.video.journal import Frames
from tdpose_jax.video.poses import FramePoses


@contextlib.contextmanager
def whole_file(path: Path, **options) -> Iterator:
    """Writes beside the target and renames, so that no half file is ever seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", **options) as file:
        yield file
    os.replace(partial, path)


def save_posetrack18_stream(frames: Frames, path: Path, skeleton: Skeleton) -> None:
    """What `annotations.save_posetrack18` writes, without holding the video in memory."""
    evaluated = _evaluated(skeleton)
    num_frames = sum(1 for _ in frames())
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.joints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],
    }
    images = (
        {
            "file_name": people.name,
            "id": people.image_id,
            "frame_id": people.image_id,
            "nframes": num_frames,
            "is_labeled": True,
            "ignore_regions_x": [],
            "ignore_regions_y": [],
        }
        for people in frames()
    )
    annotations = (
        annotation
        for people in frames()
        for annotation in _annotations(people, evaluated)
    )
    with whole_file(path) as file:
        file.write('{"images": ')
        _write_list(file, images)
        file.write(', "annotations": ')
        _write_list(file, annotations)
        file.write(f', "categories": [{json.dumps(category)}]}}')


def _annotations(people: FramePoses, evaluated: np.ndarray) -> Iterator[dict]:
    for row in range(len(people)):
        scores = _scores(people, row)
        xyv = np.ones((len(evaluated), 3))
        xyv[:, :2] = people.keypoints_xy_image[row]
        xyv[~evaluated] = 0.0
        yield {
            "id": people.image_id * 100 + row,
            "image_id": people.image_id,
            "category_id": 1,
            "track_id": int(people.track_id[row]),
            "keypoints": xyv.ravel().tolist(),
            "scores": np.where(evaluated, scores, 0.0).tolist(),
            "score": float(scores[evaluated].mean()),
            "bbox": people.person_box_xywh[row].astype(float).tolist(),
        }


def save_coco_results(frames: Frames, path: Path, skeleton: Skeleton) -> None:
    """COCO's keypoint results; x, y and the joint's score of every joint."""
    evaluated = _evaluated(skeleton)

    def entries():
        for people in frames():
            for row in range(len(people)):
                scores = _scores(people, row)
                points = np.concatenate(
                    [people.keypoints_xy_image[row], scores[:, None]], axis=1
                )
                points[~evaluated] = 0.0
                yield {
                    "image_id": people.image_id,
                    "image_name": people.name,
                    "category_id": 1,
                    "keypoints": [round(v, 4) for v in points.ravel().tolist()],
                    "score": float(scores[evaluated].mean()),
                    "bbox": people.person_box_xywh[row].astype(float).tolist(),
                    "track_id": int(people.track_id[row]),
                }

    with whole_file(path) as file:
        _write_list(file, entries())


def save_csv(frames: Frames, path: Path, skeleton: Skeleton) -> None:
    """One row per person and frame; three columns per joint."""
    joints = [skeleton.joints[i] for i in skeleton.evaluated]
    header = ["frame", "time_s", "image", "track_id", "box_left", "box_top"]
    header += ["box_width", "box_height", "box_score"]
    header += [f"{j}_{part}" for j in joints for part in ("x", "y", "score")]
    with whole_file(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for people in frames():
            for row in range(len(people)):
                points = np.concatenate(
                    [
                        people.keypoints_xy_image[row],
                        people.keypoint_score[row][:, None],
                    ],
                    axis=1,
                )[list(skeleton.evaluated)]
                numbers = [
                    *people.person_box_xywh[row],
                    people.box_score[row],
                    *points.ravel(),
                ]
                writer.writerow(
                    [
                        people.index,
                        f"{people.time_s:.6f}",
                        people.name,
                        int(people.track_id[row]),
                        *(f"{v:.4f}" for v in numbers),
                    ]
                )


def _evaluated(skeleton: Skeleton) -> np.ndarray:
    mask = np.zeros(skeleton.num_keypoints, bool)
    mask[list(skeleton.evaluated)] = True
    return mask


def _scores(people: FramePoses, row: int) -> np.ndarray:
    return people.keypoint_score[row].astype(float) * float(people.box_score[row])


def _write_list(file, items: Iterator) -> None:
    file.write("[")
    for i, item in enumerate(items):
        file.write((",\n" if i else "") + json.dumps(item, allow_nan=False))
    file.write("]")
