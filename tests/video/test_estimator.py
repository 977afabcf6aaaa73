"""The network on arrays and streams: geometry, windows, batches, memory."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from tdpose_jax import heatmaps as hm
from tdpose_jax.interop.weights_file import save_backbone
from tdpose_jax.models.hrnet import HRNet
from tdpose_jax.video.decode import Frame, open_source
from tdpose_jax.video.estimator import PoseEstimator
from tdpose_jax.video.loaded_model import CheckpointFolderError, load_model
from tdpose_jax.video.poses import Boxes
from tdpose_jax.video.stream import PoseStream
from tests.models import tiny
from tests.real_data import REAL, needs_real
from tests.video.media import write_video

TINYPOSE = REAL / "weights" / "tinypose_256x192.npz"


def truth_boxes(clip):
    return [
        np.array([p.person_box_xywh for p in f.persons], np.float32).reshape(-1, 4)
        for f in clip.truth.frames
    ]


def test_importing_the_package_stays_light():
    code = (
        "import sys, tdpose_jax; assert 'jax' not in sys.modules;"
        "tdpose_jax.PoseEstimator; assert 'jax' in sys.modules;"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import tdpose_jax

    assert tdpose_jax.PoseEstimator is PoseEstimator
    with pytest.raises(AttributeError, match="nothing"):
        _ = tdpose_jax.nothing


def test_run_folder_says_all(estimator):
    assert estimator.window_delta == 1
    assert estimator.skeleton.name == "posetrack"
    assert estimator.loaded.crop_size_hw == (64, 64)
    assert estimator.loaded.description.startswith("TDMI, run")


def test_the_full_head_over_one_frame_is_a_single_frame(run_folder, tmp_path):
    """As `single_frame` of configs/ablations.py; the report must not call it TDMI."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    changes = {
        "data.window_delta": 0,
        "model.difference_stages": [],
        "model.spatio_temporal": True,
        "model.spatio_temporal_blocks": 0,
    }
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load_model(folder)
    assert loaded.window_delta == 0
    assert loaded.description == "single frame, run, step 3"


def test_frames_and_clips_give_the_same(estimator, clip):
    """`predict` pads windows at the ends with the nearest frame; clips are whole."""
    boxes = truth_boxes(clip)
    found = estimator.predict(clip.frames, boxes)
    assert [len(f) for f in found] == [len(b) for b in boxes]
    assert (found[0].track_id == -1).all()
    last = len(clip.frames) - 1
    rows = [(i, row) for i, b in enumerate(boxes) for row in range(len(b))]
    windows = np.stack(
        [[clip.frames[np.clip(i + d, 0, last)] for d in (-1, 0, 1)] for i, _ in rows]
    )
    xy, score = estimator.predict_clips(
        windows, np.stack([boxes[i][r] for i, r in rows])
    )
    for k, (i, row) in enumerate(rows):
        np.testing.assert_allclose(found[i].keypoints_xy_image[row], xy[k], atol=0.01)
        np.testing.assert_allclose(found[i].keypoint_score[row], score[k], atol=1e-5)
    assert np.isfinite(xy).all() and xy.dtype == np.float32
    # The supporting frames matter, and so do the boxes.
    other = windows.copy()
    other[:, 0] = 255 - other[:, 0]
    assert np.abs(estimator.predict_clips(other, np.stack([boxes[i][r] for i, r in rows]))[1] - score).max() > 1e-6  # fmt: skip
    assert {f.motion["motion_useful"].dtype for f in found if len(f)} == {
        np.dtype("u1")
    }


def test_joints_come_back_through_crop_and_decoder(estimator, clip):
    """A backend that draws the true heatmaps: the answer is the truth, in image pixels."""
    label = clip.truth.frames[4].persons[0]
    truth = label.keypoints_xyv[:, :2]
    _, crop_to_image = estimator.crop(clip.frames[3:6], label.person_box_xywh)
    inverse = np.linalg.inv(np.vstack([crop_to_image, [0, 0, 1]]))[:2]
    xy_crop = truth @ inverse[:, :2].T + inverse[:, 2]

    def backend(clips):
        maps, _ = hm.encode_heatmaps(xy_crop, np.ones(17), (16, 16), 1.5, "subpixel")
        return {"heatmaps": np.tile(np.asarray(maps), (len(clips), 1, 1, 1))}

    drawn = PoseEstimator(estimator.loaded, backend, 2)
    (xy,), _ = drawn.predict_clips(
        np.stack([clip.frames[3:6]]), label.person_box_xywh[None]
    )
    seen = label.keypoints_xyv[:, 2] > 0
    inside = ((xy_crop > 2) & (xy_crop < 60)).all(1) & seen
    assert inside.sum() > 8
    np.testing.assert_allclose(xy[inside], truth[inside], atol=0.3)


def test_flip_test_of_a_mirrored_network(estimator, clip):
    """Averaging with the mirror image makes the answer that of the mirrored question."""
    import dataclasses

    flipping = PoseEstimator(
        dataclasses.replace(estimator.loaded, flip_test=True), estimator.backend, 4
    )
    boxes = truth_boxes(clip)[:3]
    plain = estimator.predict(clip.frames[:3], boxes)
    flipped = flipping.predict(clip.frames[:3], boxes)
    difference = flipped[1].keypoint_score - plain[1].keypoint_score
    assert np.abs(difference).max() > 1e-6


@pytest.mark.parametrize(
    ("frames", "boxes", "message"),
    [
        ([np.zeros((9, 9, 3), np.uint8)], [], "1 frames but 0 lists"),
        ([np.zeros((9, 9), np.uint8)], [np.zeros((0, 4))], "frame 0 is uint8"),
        ([np.zeros((9, 9, 3))], [np.zeros((0, 4))], "frame 0 is float64"),
        (
            [np.zeros((9, 9, 3), np.uint8)],
            [[[1, 1, 0, 4]]],
            "frame 0 has a box without",
        ),
    ],
)
def test_wrong_arrays(estimator, frames, boxes, message):
    with pytest.raises(ValueError, match=message):
        estimator.predict(frames, boxes)


def test_clips_of_a_wrong_length(estimator):
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W, 3\]"):
        estimator.predict_clips(np.zeros((1, 5, 9, 9, 3), np.uint8), np.zeros((1, 4)))
    xy, score = estimator.predict_clips(np.zeros((0, 3, 9, 9, 3), np.uint8), [])
    assert xy.shape == (0, 17, 2) and score.shape == (0, 17)


def test_folder_and_video_give_the_same_poses(estimator, clip, tmp_path):
    video = write_video(tmp_path / "clip.mkv", clip.frames)
    options = dict(boxes=clip.boxes)
    a = list(estimator.track(video, **options))
    b = list(estimator.track(clip.png_folder, **options))
    assert len(a) == len(b) == len(clip.frames)
    for one, two in zip(a, b, strict=True):
        np.testing.assert_array_equal(one.track_id, two.track_id)
        np.testing.assert_array_equal(one.keypoints_xy_image, two.keypoints_xy_image)
        assert one.time_s == two.time_s
    # And the same as the arrays.
    for one, two in zip(
        a, estimator.predict(clip.frames, truth_boxes(clip)), strict=True
    ):
        np.testing.assert_array_equal(one.keypoints_xy_image, two.keypoints_xy_image)


def test_ranges_use_the_true_neighbours(estimator, clip):
    whole = {p.index: p for p in estimator.track(clip.png_folder, boxes=clip.boxes)}
    options = dict(start=3, end=12, every=4)
    part = list(estimator.track(clip.png_folder, boxes=clip.boxes, **options))
    assert [p.index for p in part] == [3, 7, 11]
    for people in part:
        np.testing.assert_allclose(
            people.keypoints_xy_image, whole[people.index].keypoints_xy_image, atol=1e-3
        )
    last = len(clip.frames) - 1
    end = list(estimator.track(clip.png_folder, boxes=clip.boxes, start=last, end=99))
    assert [p.index for p in end] == [last]
    np.testing.assert_allclose(
        end[0].keypoints_xy_image, whole[last].keypoints_xy_image, atol=1e-3
    )
    assert not list(estimator.track(clip.png_folder, boxes=clip.boxes, start=99))


def test_memory_does_not_grow_with_the_video(estimator):
    """600 frames, people in some, in a random order: bounded frames, crops, results."""
    rng = np.random.default_rng(0)
    counts = np.where(np.arange(600) % 100 < 30, rng.integers(0, 4, 600), 0)
    counts[101] = 1  # one person, then a long time nobody
    images_alive = 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal images_alive
            images_alive -= self.base is not None and self.shape == (40, 40, 3)

    def make():
        nonlocal images_alive
        images_alive += 1
        return np.zeros((40, 40, 3), np.uint8).view(Counted)

    def frames():
        for i in range(600):
            yield Frame(i, i / 25, f"v/{i}.jpg", None, make())

    def find(frame):
        n = counts[frame.index]
        return Boxes(np.tile([5.0, 5, 20, 30], (n, 1)), np.ones(n))

    stream = PoseStream(estimator, find)
    alive, indices = [], []
    for people in stream.run(frames()):
        assert len(people) == counts[people.index]
        indices.append(people.index)
        alive.append(images_alive)
    assert indices == list(range(600))
    size = estimator.batch_size
    assert stream.max_frames == 3 and max(alive) <= 5
    assert stream.max_crops < size + 3 and stream.max_pending <= 4 * size + 1


def test_detector_and_tracker_together(estimator, clip):
    """A detector that sees the truth in another order each frame."""
    boxes = {i: b for i, b in enumerate(truth_boxes(clip))}
    source = open_source(clip.png_folder)
    calls = iter(range(len(clip.frames)))

    def detector(image_rgb):
        assert image_rgb.shape == (120, 160, 3)
        i = next(calls)
        order = np.random.default_rng(i).permutation(len(boxes[i]))
        return Boxes(boxes[i][order], np.ones(len(order)))

    for people in estimator.track(source, detector=detector):
        truth = clip.truth.frames[people.index].persons
        assert len(people) == len(truth)
        for row, identity in enumerate(people.track_id):
            box = people.person_box_xywh[row]
            match = [p for p in truth if np.allclose(p.person_box_xywh, box, atol=1e-3)]
            assert len(match) == 1 and identity < 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file or folder"),
        (lambda p: p.mkdir(), "neither a run folder"),
        (
            lambda p: (p.mkdir(), (p / "config.json").write_text("{}")),
            "another version",
        ),
    ],
)
def test_what_is_no_checkpoint(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(CheckpointFolderError, match=message):
        load_model(tmp_path / "x")


def test_imported_backbones(tmp_path):
    module = HRNet(**tiny.TINY_HRNET | {"num_keypoints": 0})
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = module.lazy_init(jax.random.key(0), shape)
    arch = {"arch": "hrnet_w4", "width": 4, "num_keypoints": 0}
    save_backbone(tmp_path / "headless", variables, arch)
    with pytest.raises(CheckpointFolderError, match="has none"):
        load_model(tmp_path / "headless")
    save_backbone(tmp_path / "w4", variables, arch | {"num_keypoints": 17})
    loaded = load_model(tmp_path / "w4")
    assert loaded.skeleton.name == "coco" and loaded.window_delta == 0
    assert loaded.crop_size_hw == (256, 192)
    assert set(loaded.variables["params"]["backbone"]) == set(variables["params"])
    (tmp_path / "w4" / "arch.json").write_text(json.dumps(arch | {"arch": "resnet", "num_keypoints": 17}))  # fmt: skip
    with pytest.raises(ValueError, match="resnet"):
        load_model(tmp_path / "w4")


@needs_real
def test_tinypose_on_a_labelled_frame():
    """Real weights, real people: limb joints within half a head (97.3 % on all 21)."""
    import cv2

    label = json.loads(
        (REAL / "posetrack17/annotations/val/060470979.json").read_text()
    )
    entry = label["annolist"][0]
    image = cv2.imread(str(REAL / "posetrack17" / entry["image"][0]["name"]))[..., ::-1]
    joints = {0: 16, 1: 14, 2: 12, 3: 11, 4: 13, 5: 15, 10: 10, 11: 8, 12: 6, 13: 5,
              14: 7, 15: 9}  # MPII -> COCO  # fmt: skip
    boxes, truths, heads = [], [], []
    for person in entry["annorect"]:
        points = person["annopoints"][0]["point"]
        xy = {p["id"][0]: (p["x"][0], p["y"][0]) for p in points}
        values = np.array(list(xy.values()))
        size = np.ptp(values, axis=0) * 1.2
        boxes.append([*(values.min(0) + values.max(0) - size) / 2, *size])
        truths.append({joints[j]: p for j, p in xy.items() if j in joints})
        head = [person[k][0] for k in ("x1", "y1", "x2", "y2")]
        heads.append(0.6 * np.hypot(head[2] - head[0], head[3] - head[1]))
    estimator = PoseEstimator.load(TINYPOSE, batch_size=4)
    (found,) = estimator.predict([np.ascontiguousarray(image)], [np.array(boxes)])
    errors = [
        np.linalg.norm(found.keypoints_xy_image[row][k] - p) / heads[row]
        for row, truth in enumerate(truths)
        for k, p in truth.items()
    ]
    assert len(errors) > 40 and np.mean(np.array(errors) < 0.5) > 0.9
