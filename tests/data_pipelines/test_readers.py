"""Readers: what is on disk -> sequences, on made-up and on real data."""

import json
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import frames as frame_files
from data_pipelines.detections import attach_detections, load_detections
from data_pipelines.frames import FrameError, jpeg_size_hw, read_frame
from data_pipelines.hieve import read_hieve
from data_pipelines.jhmdb import (
    label_person,
    load_joint_positions,
    read_jhmdb,
    read_split_list,
)
from data_pipelines.posetrack import read_merged, read_posetrack, split_merged
from data_pipelines.sources import frame_number
from data_pipelines.windows import build_record, detection_windows, label_windows
from tdpose_jax.annotations import AnnotationError
from tdpose_jax.skeleton import JHMDB
from tests.data_pipelines import small_sets
from tests.real_data import REAL, needs_real


def one(splits, split):
    (video,) = splits[split]
    return video


# --- PoseTrack -----------------------------------------------------------------------


def test_posetrack18_folder(tmp_path):
    splits = read_posetrack(small_sets.make_posetrack18(tmp_path), "posetrack18")
    assert {s: [v.label.name for v in videos] for s, videos in splits.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
    }
    video = one(splits, "val")
    assert video.frame_paths[0] == tmp_path / "images/val/c/000000.jpg"
    windows, notes = label_windows(video, 2)
    assert [w.frame_index for w in windows] == [1, 2, 3, 4] and not notes
    first = windows[0]
    assert first.frame_paths[0] is None  # before the sequence
    assert first.frame_paths[2].name == "000001.jpg"
    np.testing.assert_array_equal(
        first.people.person_box_xywh, [[8, 4, 24, 40], [28, 4, 24, 40]]
    )
    np.testing.assert_array_equal(first.people.head_box_xyxy[0], [10, 4, 16, 12])
    assert not first.people.keypoint_visible[:, 3:5].any()  # ears


@pytest.mark.parametrize("prefix", ["", "images", "images_renamed"])
def test_frames_are_found_below_the_usual_folders(tmp_path, prefix):
    small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    path = tmp_path / "annotations/val/c.json"
    path.write_text(path.read_text().replace("images/val/c", "bonn/c"))
    target = tmp_path / prefix / "bonn" / "c"
    target.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "images/val/c").rename(target)
    video = one(read_posetrack(tmp_path, "posetrack17"), "val")
    assert all(path.is_file() for path in video.frame_paths)


def test_irregular_names_of_2017_go_by_number(tmp_path):
    """Labels say 1..6, the disk has 0008_crop.jpg .. 0013_crop.jpg: k-th to k-th."""
    small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    folder = tmp_path / "images/val/c"
    for i in range(6):
        (folder / f"{i:06d}.jpg").rename(folder / f"{i + 8:04d}_crop.jpg")
    video = one(read_posetrack(tmp_path, "posetrack17"), "val")
    assert [p.name for p in video.frame_paths] == [
        f"{i + 8:04d}_crop.jpg" for i in range(6)
    ]


def test_frame_number():
    assert frame_number("images/x/0042_crop.jpg") == 42
    assert frame_number("00000001.jpg") == 1
    assert frame_number("readme.jpg") is None


def merge(root: Path, split: str, joint_names: bool) -> dict:
    merged = {"images": [], "annotations": []}
    for path in sorted((root / "annotations" / split).glob("*.json")):
        content = json.loads(path.read_text())
        offset = len(merged["images"]) + 1
        for image in content["images"]:
            image["id"] += offset * 10**6
        for annotation in content["annotations"]:
            annotation["image_id"] += offset * 10**6
            if not joint_names:  # the 2017 form marks labelled joints with 2
                annotation["keypoints"][2::3] = [
                    2 * v for v in annotation["keypoints"][2::3]
                ]
        merged["images"] += content["images"][::-1]  # in no order
        merged["annotations"] += content["annotations"]
        merged["categories"] = content["categories"]
    if not joint_names:
        merged["categories"] = [{"id": 1, "name": "person"}]
    return merged


@pytest.mark.parametrize("joint_names", [True, False])
def test_merged_coco_form_is_the_same_data(tmp_path, joint_names):
    root = small_sets.make_posetrack18(tmp_path / "a")
    expected = read_posetrack(root, "posetrack18")["train"]
    merged = merge(root, "train", joint_names)
    (root / "posetrack_train.json").write_text(json.dumps(merged))
    shutil.rmtree(root / "annotations")
    found = read_posetrack(root, "posetrack18")["train"]
    assert len(found) == len(expected) == 2
    for a, b in zip(found, expected, strict=True):
        assert a.label.name == b.label.name and a.frame_paths == b.frame_paths
        for wa, wb in zip(label_windows(a, 2)[0], label_windows(b, 2)[0], strict=True):
            assert wa.frame_paths == wb.frame_paths
            np.testing.assert_array_equal(
                wa.people.keypoints_xy_image, wb.people.keypoints_xy_image
            )


def test_merged_form_takes_unlisted_neighbours_from_disk(tmp_path):
    """A file of labelled frames only: the window still sees the frames between."""
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    merged = merge(root, "val", True)
    keep = [i for i in merged["images"] if i["file_name"].endswith("000003.jpg")]
    merged["images"] = keep
    merged["annotations"] = [
        a for a in merged["annotations"] if a["image_id"] == keep[0]["id"]
    ]
    path = tmp_path / "merged.json"
    path.write_text(json.dumps(merged))
    (video,) = read_merged(root, path)
    (window,), _ = label_windows(video, 2)
    assert window.frame_index == 3
    assert [p.name for p in window.frame_paths] == [f"{i:06d}.jpg" for i in range(1, 6)]


def test_merged_videos_of_one_name_stay_apart():
    content = {
        "images": [
            {"file_name": "bonn/x/1.jpg", "id": 1},
            {"file_name": "mpii/x/1.jpg", "id": 2},
        ],
        "annotations": [],
    }
    assert list(split_merged(content, "file")) == ["bonn_x", "mpii_x"]


def test_posetrack_errors(tmp_path):
    with pytest.raises(AnnotationError, match="does not exist; posetrack18 needs"):
        read_posetrack(tmp_path / "nowhere", "posetrack18")
    with pytest.raises(AnnotationError, match="holds none of it"):
        read_posetrack(tmp_path, "posetrack18")
    (tmp_path / "annotations" / "val").mkdir(parents=True)
    with pytest.raises(AnnotationError, match="annotations/val: split 'val' is empty"):
        read_posetrack(tmp_path, "posetrack18")
    root = small_sets.make_posetrack18(tmp_path / "set")
    path = root / "annotations/val/c.json"
    whole = path.read_text()
    path.write_text(whole.replace('"nose", ', ""))
    with pytest.raises(AnnotationError, match=r"c\.json.*16 joint names"):
        read_posetrack(root, "posetrack18")
    path.write_text(whole.replace("images/val", "../../etc"))
    with pytest.raises(AnnotationError, match=r"c\.json.*\.\."):
        read_posetrack(root, "posetrack18")
    path.write_text(whole)
    for name in ("x_val.json", "y_val.json"):
        (root / "annotations" / name).write_text(whole)
    shutil.rmtree(root / "annotations" / "val")
    with pytest.raises(AnnotationError, match="2 files could be the labels of split"):
        read_posetrack(root, "posetrack18")


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


# --- frames --------------------------------------------------------------------------


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


# --- JHMDB ---------------------------------------------------------------------------


@pytest.mark.parametrize("as_video", [True, False])
def test_jhmdb(tmp_path, as_video):
    splits = read_jhmdb(small_sets.make_jhmdb(tmp_path, as_video))
    assert {s: len(v) for s, v in splits.items()} == {"train": 2, "val": 1}
    video = splits["train"][0]
    assert (video.video is not None) == as_video and len(video.label.frames) == 5
    person = video.label.frames[2].persons[0]
    neck, ankle = JHMDB.index("neck"), JHMDB.index("left_ankle")
    # pos_img (5, 6) counts from 1; an ankle at 500 is outside the 64 pixels.
    np.testing.assert_array_equal(person.keypoints_xyv[neck], [4, 5, 1])
    np.testing.assert_array_equal(person.keypoints_xyv[ankle], [0, 0, 0])
    seen = person.keypoints_xyv[person.keypoints_xyv[:, 2] > 0, :2]
    extent = seen.max(0) - seen.min(0)
    np.testing.assert_allclose(person.person_box_xywh[2:], extent * 1.3)


def test_joint_on_the_image_border_is_inside(tmp_path):
    """Pixel (0, 0) covers -0.5..0.5, so pos_img 0.5 is the last value inside."""
    joints = np.full((15, 2), 10.0)
    joints[0] = -0.5, 0
    joints[1] = -0.51, 0
    joints[2] = 63.49, 47.49
    joints[3] = 63.5, 47
    seen = label_person(joints, small_sets.SIZE_HW).keypoints_xyv[:, 2]
    assert list(seen[:4]) == [1, 0, 1, 0]
    assert label_person(joints - 100, small_sets.SIZE_HW) is None


def test_video_frames_come_in_order_and_once(tmp_path):
    video = read_jhmdb(small_sets.make_jhmdb(tmp_path))["train"][0]
    frame_files.extract_video(video.video, tmp_path / "out", 7)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{i:06d}.jpg" for i in range(5)]  # 7 asked, 5 there
    for i, name in enumerate(names):
        decoded = cv2.imread(str(tmp_path / "out" / name)).astype(float)
        difference = np.abs(decoded - small_sets.picture(i)).mean()
        other = np.abs(decoded - small_sets.picture(i + 1)).mean()
        assert difference < 6 < other


def test_jhmdb_errors(tmp_path):
    with pytest.raises(AnnotationError, match=r"does not exist; jhmdb \(split 1\)"):
        read_jhmdb(tmp_path / "nowhere")
    root = small_sets.make_jhmdb(tmp_path)
    with pytest.raises(AnnotationError, match=r"jhmdb \(split 2\) needs"):
        read_jhmdb(root, 2)
    positions = root / "joint_positions/wave/clip_0_wave/joint_positions.mat"
    whole = positions.read_bytes()
    scipy.io.savemat(positions, {"pos_img": np.zeros((2, 13, 5))})
    with pytest.raises(AnnotationError, match="13 joints, JHMDB has 15"):
        read_jhmdb(root)
    positions.write_bytes(whole[:200])
    with pytest.raises(AnnotationError, match="joint_positions.mat: "):
        read_jhmdb(root)
    positions.write_bytes(whole)
    video = root / "ReCompress_Videos/wave/clip_0_wave.avi"
    video.rename(video.with_suffix(".bak"))
    with pytest.raises(AnnotationError, match=r"clip_0_wave\.avi: missing"):
        read_jhmdb(root)
    video.write_bytes(b"no video")
    with pytest.raises(AnnotationError, match="cannot be opened as a video"):
        read_jhmdb(root)
    (root / "splits/wave_test_split1.txt").write_text("clip_0_wave.avi one\n")
    with pytest.raises(AnnotationError, match="line 1 is 'clip_0_wave.avi one'"):
        read_jhmdb(root)
    (root / "splits/wave_test_split1.txt").write_text("clip_0_wave.avi 0\n")
    with pytest.raises(AnnotationError, match="split 'train' is empty"):
        read_jhmdb(root)


# --- HiEve ---------------------------------------------------------------------------


def make_hieve(root: Path) -> Path:
    folder = root / "labels/train/track2&3"
    folder.mkdir(parents=True)
    for number in (1, 3):
        rect = {
            "x1": [5], "y1": [4], "x2": [45], "y2": [44], "track_id": [7],
            "annopoints": [
                {"point": [{"id": [j], "x": [10 + j], "y": [20]} for j in range(14)]}
            ],
        }  # fmt: skip
        annolist = [
            {"image": [{"name": f"{i:06d}.jpg"}], "annorect": [rect], "imgnum": [i]}
            for i in range(3)
        ]
        (folder / f"{number}.json").write_text(json.dumps({"annolist": annolist}))
        for i in range(3):
            small_sets.write_frame(root / f"images/train/{number}/{i:06d}.jpg", i)
    return root


def test_hieve(tmp_path):
    splits = read_hieve(make_hieve(tmp_path))
    assert [v.label.name for v in splits["train"]] == ["1"]
    video = one(splits, "val")
    assert video.label.skeleton == "hieve"
    assert video.label.frames[0].image_name == "3/000000.jpg"
    assert all(path.is_file() for path in video.frame_paths)
    windows, _ = label_windows(video, 1)
    np.testing.assert_array_equal(windows[0].people.person_box_xywh, [[5, 4, 40, 40]])
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(AnnotationError, match=r"1\.json: no frames for it; expected"):
        read_hieve(tmp_path)
    with pytest.raises(AnnotationError, match="hieve needs there"):
        read_hieve(tmp_path / "images")


# --- detections ----------------------------------------------------------------------


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


# --- real samples --------------------------------------------------------------------


@needs_real
def test_real_posetrack17_sample():
    video = one(read_posetrack(REAL / "posetrack17", "posetrack17"), "val")
    assert len(video.frame_paths) == 21 and all(p.is_file() for p in video.frame_paths)
    windows, notes = label_windows(video, 2)
    assert len(windows) == 21 and not notes
    assert all(len(w.people.person_index) == 4 for w in windows)
    record = build_record(windows[0], read_frame, lambda *_: None)
    assert record.image_size_hw == (540, 960)
    assert list(record.frame_is_real) == [0, 0, 1, 1, 1]
    # All joints of all people lie inside their box.
    xy, box = record.keypoints_xy_image, record.person_box_xywh[:, None]
    inside = (xy >= box[..., :2]) & (xy <= box[..., :2] + box[..., 2:])
    assert inside.all(-1)[record.keypoint_visible > 0].all()


@needs_real
def test_real_posetrack18_sample_and_detections():
    root = REAL / "posetrack18"
    videos = read_posetrack(root, "posetrack18")["val"]
    assert [v.label.name for v in videos] == [
        "003418_mpii_test",
        "009473_mpii_test",
        "012834_mpii_test",
    ]
    merged = read_merged(root, root / "annotations/test_posetrack18_val.json")
    assert sorted(v.label.name for v in merged) == [v.label.name for v in videos]
    people = sum(len(w.people.track_id) for v in videos for w in label_windows(v, 2)[0])
    assert people == 14
    path = root / "annotations/test_posetrack18_human_detections.json"
    boxed = attach_detections(videos, load_detections(path), path)
    assert [len(v.detections[0]) for v in boxed] == [100, 78, 100]


@needs_real
def test_real_jhmdb_sample():
    splits = read_jhmdb(REAL / "jhmdb")
    assert {s: len(v) for s, v in splits.items()} == {"train": 81, "val": 14}
    assert sum(len(v.frame_paths) for vs in splits.values() for v in vs) == 3350


# --- fuzzing: only AnnotationError may come out --------------------------------------


def mutations(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, copies and replaces parts of a file."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) or 1)
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + rng.randrange(40)]
        elif kind == 2:
            out[at:at] = out[at : at + rng.randrange(60)]
        elif kind == 3:
            tokens = (b"null", b"[]", b"{}", b"-1", b"1e400", b'"x"', b"true", b"\xff")
            out[at : at + rng.randrange(6)] = rng.choice(tokens)
        else:
            out = out[:at]
    return bytes(out)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_fuzzed_box_files(seed):
    rng = random.Random(seed)
    data = json.dumps(small_sets.detection_list("val", "c", range(3))).encode()
    with fuzzed(mutations(data, rng)) as path:
        load_detections(path)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_fuzzed_merged_files(seed):
    rng = random.Random(seed)
    content = small_sets.posetrack18_labels("c", "val", 3, range(2))
    with fuzzed(mutations(json.dumps(content).encode(), rng)) as path:
        for video in read_merged(path.parent, path):
            label_windows(video, 2)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_fuzzed_joint_positions(seed):
    rng = random.Random(seed)
    with fuzzed(mutations(MAT, rng)) as path:
        load_joint_positions(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80) | st.text(max_size=60).map(str.encode))
def test_fuzzed_split_lists(data):
    with fuzzed(data) as path:
        read_split_list(path)


class fuzzed:  # noqa: N801 - reads as a statement
    """A file with these bytes; an AnnotationError that names it is as good as success."""

    def __init__(self, data: bytes):
        self.path = FUZZ_FOLDER / "file"
        self.path.write_bytes(data)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind, error, trace) -> bool:
        if isinstance(error, AnnotationError):
            assert "file" in str(error)
            return True
        return False


@pytest.fixture(autouse=True, scope="module")
def _fuzz_folder(tmp_path_factory):
    global FUZZ_FOLDER, MAT
    FUZZ_FOLDER = tmp_path_factory.mktemp("fuzz")
    path = FUZZ_FOLDER / "whole.mat"
    scipy.io.savemat(path, {"pos_img": np.ones((2, 15, 3)), "scale": np.ones(3)})
    MAT = path.read_bytes()
    yield
