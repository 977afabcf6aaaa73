"""JHMDB and HiEve on disk -> sequences."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from data_pipelines import frames as frame_files
from data_pipelines.hieve import read_hieve
from data_pipelines.jhmdb import (
    label_person,
    read_jhmdb,
)
from data_pipelines.windows import label_windows
from tdpose_jax.annotations import AnnotationError
from tdpose_jax.skeleton import JHMDB
from tests.data_pipelines import small_sets
from tests.real_data import REAL, needs_real


def one(splits, split):
    (video,) = splits[split]
    return video


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
    with pytest.raises(AnnotationError, match="no clip that is there is marked 1"):
        read_jhmdb(root)


def test_a_part_of_jhmdb_is_enough(tmp_path):
    """The official lists name every clip; a folder may hold some, or test clips only."""
    root = small_sets.make_jhmdb(tmp_path)
    path = root / "splits/wave_test_split1.txt"
    path.write_text(path.read_text() + "never_copied_wave.avi 2\n")
    note = ("splits/wave_test_split1.txt", "clip 'never_copied_wave' is not there")
    splits = read_jhmdb(root)
    assert {s: len(v) for s, v in splits.items()} == {"train": 2, "val": 1}
    assert [n for v in splits["train"] + splits["val"] for n in v.notes] == [note]
    path.write_text("".join(x for x in path.open() if x.endswith("2\n")))
    assert list(read_jhmdb(root)) == ["val"]
    path.write_text("never_copied_wave.avi 2\n")
    with pytest.raises(AnnotationError, match="; 1 clips are listed but have neither"):
        read_jhmdb(root)


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


@needs_real
def test_real_jhmdb_sample():
    splits = read_jhmdb(REAL / "jhmdb")
    assert {s: len(v) for s, v in splits.items()} == {"train": 81, "val": 14}
    assert sum(len(v.frame_paths) for vs in splits.values() for v in vs) == 3350
