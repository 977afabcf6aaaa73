"""Pixels: joints stand on what they label, in every frame, after every augmentation."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.crop_clips import ClipCropper, source_window
from data_pipelines.records import to_example
from tdpose_jax.geometry import apply_affine
from tdpose_jax.shapes import decode_sample_ids
from tdpose_jax.skeleton import POSETRACK
from tests.data_pipelines.small_data import (
    IMAGE_HW,
    data_config,
    dots,
    make_record,
)

LABELLED = [i for i in range(17) if i not in POSETRACK.unannotated]


def cropper(seed=None, window_delta_built=1, **overrides) -> ClipCropper:
    overrides = {"crop_size_hw": (128, 96)} | overrides
    data = data_config("nowhere", **overrides)
    return ClipCropper(data, POSETRACK, window_delta_built, seed)


def crop(make, record, persons=(0,), epoch=0):
    fields = make(
        tf.constant(to_example(record, 17)),
        tf.constant(persons, tf.int64),
        tf.constant(epoch, tf.int64),
    )
    return {name: value.numpy() for name, value in fields.items()}


def record_with_dots(seed=0):
    """Two people; a dot at each joint of both, in all frames."""
    record = make_record("video", 4, 2, np.random.default_rng(seed))
    image = dots(record.keypoints_xy_image[:, LABELLED].reshape(-1, 2))
    return make_record("video", 4, 2, np.random.default_rng(seed), images=[image] * 3)


def value_at(frame, xy):
    """Brightness at sub-pixel points."""
    xy = np.asarray(xy, np.float32)
    return cv2.remap(
        frame[..., 0].astype(np.float32),
        xy[:, None, 0],
        xy[:, None, 1],
        cv2.INTER_LINEAR,
    )[:, 0]


@pytest.mark.parametrize("seed", [None, *range(8)])
def test_joints_stand_on_their_dots(seed):
    record = record_with_dots()
    clips = crop(cropper(seed), record, (0, 1), epoch=3)
    for i, frames in enumerate(clips["frames"]):
        xy, weight = clips["keypoints_xy_crop"][i], clips["keypoint_weight"][i]
        h, w = frames.shape[1:3]
        inside = (weight > 0) & ((xy > 1) & (xy < [w - 2, h - 2])).all(1)
        # Some heads are above the picture's upper edge: labelled, but not to be seen.
        inside &= apply_affine(clips["crop_to_image"][i], xy)[:, 1] > 1
        assert inside.sum() >= 3
        for frame in frames:
            assert value_at(frame, xy[inside]).min() > 180
        # A dot half a pixel away would be less bright: the peak is where xy says.
        here = value_at(frames[0], xy[inside]).sum()
        for shift in ((2, 0), (-2, 0), (0, 2), (0, -2)):
            assert value_at(frames[0], xy[inside] + shift).sum() < here


def test_one_draw_for_all_frames():
    record = make_record(
        "video", 4, 1, np.random.default_rng(0), images=[dots([[80, 60]])] * 3
    )
    for epoch in range(5):
        frames = crop(cropper(0, color_jitter=0.4), record, epoch=epoch)["frames"][0]
        assert frames.max() > 0
        np.testing.assert_array_equal(frames, np.repeat(frames[:1], 3, 0))


def test_crop_to_image_is_the_inverse():
    record = record_with_dots()
    clips = crop(cropper(5), record, (0, 1))
    back = apply_affine(clips["crop_to_image"], clips["keypoints_xy_crop"])
    flip = np.linalg.det(clips["crop_to_image"][..., :2]) < 0
    order = list(POSETRACK.flip_permutation)
    for i in range(2):
        points = back[i][order] if flip[i] else back[i]
        np.testing.assert_allclose(
            points[LABELLED], record.keypoints_xy_image[i][LABELLED], atol=1e-3
        )


def test_window_decode_equals_full_decode_and_warp():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*IMAGE_HW, 3), np.uint8), (0, 0), 2)
    record = make_record("video", 4, 1, rng, images=[image] * 3)
    full = cv2.imdecode(np.frombuffer(record.frames[0], np.uint8), cv2.IMREAD_COLOR_RGB)
    for seed in (None, 0, 1, 2):
        clips = crop(cropper(seed), record)
        affine = cv2.invertAffineTransform(clips["crop_to_image"][0].astype(float))
        expected = cv2.warpAffine(full, affine, (96, 128)).astype(int)
        difference = np.abs(clips["frames"][0, 0] - expected)
        # OpenCV rounds positions to 1/32 pixel; the window's offset may tip one.
        assert difference.max() <= 8 and difference.mean() < 0.05


def test_shorter_window_takes_the_middle_frames():
    images = [np.full((*IMAGE_HW, 3), 40 * i, np.uint8) for i in range(5)]
    record = make_record(
        "video", 1, 1, np.random.default_rng(0), window_delta=2, images=images
    )
    middle = crop(cropper(window_delta_built=2), record)
    assert middle["frames"].shape == (1, 3, 128, 96, 3)
    centers = middle["frames"][0, :, 64, 48, 0]
    np.testing.assert_allclose(centers, [40, 80, 120], atol=2)
    np.testing.assert_array_equal(middle["frame_is_real"], [[True, True, True]])
    whole = crop(cropper(window_delta_built=2, window_delta=2), record)
    np.testing.assert_array_equal(whole["frame_is_real"][0], [False] + [True] * 4)
    np.testing.assert_array_equal(whole["frames"][:, 1:4], middle["frames"])


def test_repeated_edge_frames():
    record = make_record("video", 0, 1, np.random.default_rng(0))
    clips = crop(cropper(), record)
    np.testing.assert_array_equal(clips["frame_is_real"], [[False, True, True]])
    np.testing.assert_array_equal(clips["frames"][:, 0], clips["frames"][:, 1])
    assert (clips["frames"][:, 1] != clips["frames"][:, 2]).any()


def test_persons_do_not_depend_on_company():
    """One person's clip is the same, alone or with the record's other people."""
    record = record_with_dots()
    both = crop(cropper(3), record, (0, 1))
    alone = crop(cropper(3), record, (1,))
    assert decode_sample_ids(both["sample_id"]) == ["video/4/0", "video/4/1"]
    assert decode_sample_ids(alone["sample_id"]) == ["video/4/1"]
    np.testing.assert_array_equal(
        alone["keypoints_xy_crop"][0], both["keypoints_xy_crop"][1]
    )
    difference = np.abs(alone["frames"][0].astype(int) - both["frames"][1])
    assert difference.max() <= 8 and difference.mean() < 0.05


def test_source_window():
    identity = np.eye(2, 3)[None]
    inside = identity + [[[0, 0, 30], [0, 0, 20]]]
    assert source_window(inside, (10, 20), [100, 100]).tolist() == [15, 25, 20, 30]
    assert source_window(identity, (10, 20), [12, 15]).tolist() == [0, 0, 12, 15]
    two = np.concatenate([identity, inside])
    assert source_window(two, (10, 20), [100, 100]).tolist() == [0, 0, 35, 55]
    outside = identity + [[[0, 0, -500], [0, 0, 900]]]
    top, left, height, width = source_window(outside, (10, 20), [100, 100])
    assert 0 <= top < 100 and 0 <= left < 100 and height >= 1 and width >= 1


def test_box_outside_the_picture_is_black():
    record = record_with_dots()
    record.person_box_xywh[0] = (1000, 1000, 30, 40)
    clips = crop(cropper(), record)
    assert not clips["frames"].any() and not clips["keypoint_weight"].any()
