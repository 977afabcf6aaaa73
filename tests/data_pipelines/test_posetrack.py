"""PoseTrack folders and merged files -> sequences; made-up and real data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.detections import attach_detections, load_detections
from data_pipelines.frames import read_frame
from data_pipelines.posetrack import read_merged, read_posetrack, split_merged
from data_pipelines.sources import frame_number
from data_pipelines.windows import build_record, label_windows
from tdpose_jax.annotations import AnnotationError
from tests.data_pipelines import small_sets
from tests.real_data import REAL, needs_real


def one(splits, split):
    (video,) = splits[split]
    return video


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


def test_posetrack21_folder(tmp_path):
    root = small_sets.make_posetrack18(tmp_path, {"val": ("c",)})
    (root / "annotations").rename(root / "posetrack_data")
    assert one(read_posetrack(root, "posetrack21"), "val").label.name == "c"


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
