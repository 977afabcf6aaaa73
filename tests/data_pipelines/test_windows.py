"""Sequences -> windows -> records: edges, damage, left-out people."""

import json

import cv2
import numpy as np
import pytest

from data_pipelines.frames import FrameError, jpeg_size_hw, read_frame
from data_pipelines.posetrack import read_posetrack
from data_pipelines.windows import build_record, label_windows
from tdpose_jax.annotations import AnnotationError
from tests.data_pipelines import small_sets


def one(splits, split):
    (video,) = splits[split]
    return video


def test_windows_fill_with_the_nearest_usable_frame(tmp_path):
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    folder = root / "images/val/c"
    (folder / "000002.jpg").unlink()
    broken = folder / "000005.jpg"
    broken.write_bytes(broken.read_bytes()[:-30])
    small_sets.write_frame(folder / "000001.jpg", 7, (20, 20))
    windows, _ = label_windows(one(read_posetrack(root, "x"), "val"), 2)
    notes = []
    record = build_record(
        windows[2], read_frame, lambda p, r: notes.append((p.name, r))
    )
    frame3, frame4 = ((folder / f"{i:06d}.jpg").read_bytes() for i in (3, 4))
    assert record.frames == (frame3, frame3, frame3, frame4, frame4)
    assert list(record.frame_is_real) == [0, 0, 1, 1, 0]
    assert record.image_size_hw == small_sets.SIZE_HW
    text = "; neighbours repeat the nearest frame"
    assert notes == [
        ("000002.jpg", "frame missing (No such file or directory)" + text),
        ("000001.jpg", "20x20 pixels beside a keyframe of 64x48" + text),
        ("000005.jpg", "truncated JPEG (no end marker)" + text),
    ]
    notes.clear()
    assert build_record(windows[1], read_frame, lambda *n: notes.append(n)) is None
    assert notes[0][1].endswith("its window is skipped")


def test_sequence_of_one_frame(tmp_path):
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c",)}, num_frames=1)
    (window,), _ = label_windows(one(read_posetrack(root, "x"), "val"), 2)
    record = build_record(window, read_frame, lambda *_: None)
    assert len(set(record.frames)) == 1 and list(record.frame_is_real) == [
        0,
        0,
        1,
        0,
        0,
    ]


def test_jpeg_header_and_ends(tmp_path):
    small_sets.write_frame(tmp_path / "a.jpg", 1, (30, 50))
    data = (tmp_path / "a.jpg").read_bytes()
    assert jpeg_size_hw(data) == (30, 50)
    assert jpeg_size_hw(data + b"\0" * 100) == (30, 50)  # padding after the end
    ok, progressive = cv2.imencode(
        ".jpg", small_sets.picture(2), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    )
    assert ok and jpeg_size_hw(progressive.tobytes()) == small_sets.SIZE_HW
    for bad, message in (
        (b"", "not a JPEG"),
        (b"\x89PNG", "not a JPEG"),
        (data[: len(data) // 2], "truncated"),
        (b"\xff\xd8\xff\xd9", "without a readable header"),
    ):
        with pytest.raises(FrameError, match=message):
            jpeg_size_hw(bad)
    for cut in range(0, len(data) - 2):
        with pytest.raises(FrameError):
            jpeg_size_hw(data[:cut])


def test_names_too_long_for_a_sample_id_are_refused(tmp_path):
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c" * 128,)})
    with pytest.raises(AnnotationError, match="bytes too long for a sample id"):
        label_windows(one(read_posetrack(root, "x"), "val"), 2)


def test_persons_without_joints_or_area_are_left_out(tmp_path):
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    path = root / "annotations/val/c.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"] = [0] * 51
    content["annotations"][2]["bbox"] = [3, 3, 0, 5]
    del content["annotations"][5]["bbox"]
    path.write_text(json.dumps(content))
    windows, notes = label_windows(one(read_posetrack(root, "x"), "val"), 1)
    assert notes == [
        ("c", "1 persons with a box without area"),
        ("c", "1 persons without labelled joints"),
    ]
    # The index stays that of the label file, so predictions find their person.
    assert [list(w.people.person_index) for w in windows] == [[1], [1], [0, 1], [0, 1]]
    # No box in the file: the joints' extent x1.3. x 30..46, y 5..37 (+0)
    box = windows[2].people.person_box_xywh[1]
    xy = windows[2].people.keypoints_xy_image[1]
    seen = xy[windows[2].people.keypoint_visible[1] > 0]
    np.testing.assert_allclose(box[2:], (seen.max(0) - seen.min(0)) * 1.3, rtol=1e-6)
