"""Detector boxes in both forms."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.detections import attach_detections, load_detections
from data_pipelines.posetrack import read_posetrack
from data_pipelines.windows import detection_windows
from tdpose_jax.annotations import AnnotationError
from tests.data_pipelines import small_sets


def write_boxes(path: Path, boxes: object) -> Path:
    path.write_text(json.dumps(boxes))
    return path


def test_detections_by_name_and_by_id(tmp_path):
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    videos = read_posetrack(root, "posetrack18")["val"]
    boxes = small_sets.detection_list("val", "c", range(2, 4))
    boxes += [dict(boxes[0], category_id=3), dict(boxes[0], bbox=[1, 1, 0, 4])]
    path = write_boxes(tmp_path / "boxes.json", boxes)
    detections = load_detections(path)
    assert detections.dropped == (
        ("boxes of another category than person", 1),
        ("boxes without area", 1),
    )
    (video,) = attach_detections(videos, detections, path)
    windows = detection_windows(video, 2)
    # Labelled frames are 1..4; those without a box have a record with no one in it.
    assert [len(w.people.person_index) for w in windows] == [0, 2, 2, 0]
    people = windows[1].people
    np.testing.assert_allclose(people.box_score, [0.9, 0.8])
    np.testing.assert_allclose(people.person_box_xywh[0], [5, 4, 20, 32])
    assert not people.keypoint_visible.any() and set(people.track_id) == {-1}
    for box in boxes:
        frame = int(box.pop("image_name")[-10:-4])
        box["image_id"] = 10**10 + frame
    (by_id,) = attach_detections(
        videos, load_detections(write_boxes(path, boxes)), path
    )
    for a, b in zip(video.detections, by_id.detections, strict=True):
        np.testing.assert_array_equal(a, b)


def test_detection_errors(tmp_path):
    path = tmp_path / "boxes.json"
    with pytest.raises(AnnotationError, match="cannot be read"):
        load_detections(path)
    good = small_sets.detection_list("val", "c", range(1))[0]
    for content, message in (
        ({}, "is a list of boxes, not a dict"),
        ([3], "box 0: not an object"),
        ([good, dict(good, bbox=[1, 2, 3])], r"box 1: field bbox is \[1, 2, 3\]"),
        ([dict(good, score="high")], "field score is high"),
        ([dict(good, bbox=[1, 2, float("nan"), 4])], "field bbox is .*expected 4"),
        ([dict(good, image_name="")], "needs image_name .* or image_id"),
    ):
        with pytest.raises(AnnotationError, match=message):
            load_detections(write_boxes(path, content))
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    videos = read_posetrack(root, "posetrack18")["val"]
    other = [dict(good, image_name="images/val/elsewhere/000000.jpg")]
    detections = load_detections(write_boxes(path, other))
    with pytest.raises(AnnotationError, match="no box belongs to a frame"):
        attach_detections(videos, detections, path)


def test_a_sequence_without_detections_is_reported(tmp_path):
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c", "d")})
    path = write_boxes(
        tmp_path / "b.json", small_sets.detection_list("val", "c", range(3))
    )
    videos = read_posetrack(root, "posetrack18")["val"]
    _, bare = attach_detections(videos, load_detections(path), path)
    assert bare.notes == (("d", "no detections for the sequence"),)
    assert len(detection_windows(bare, 2)) == 4
