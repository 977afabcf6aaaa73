"""Augmentation against the numbers of the HRNet / DCPose / FAMI-Pose lineage."""

import dataclasses

import numpy as np
import pytest

from configs.default import get_config
from data_pipelines.augment import (
    Augmentation,
    Draw,
    augmented_window,
    color_matrix,
    crop_keypoints,
    draw_clip,
    half_body_box_xywh,
)
from tdpose_jax.geometry import (
    CropWindow,
    apply_affine,
    box_to_window,
    image_to_crop_affine,
)
from tdpose_jax.skeleton import POSETRACK
from tests.data_pipelines.small_data import person

SIZE = (384, 288)
AUGMENTATION = Augmentation.from_config(get_config().data)
LABELLED = np.ones(17, bool)
LABELLED[[3, 4]] = False
JOINTS = person((200, 300), scale=1.0)
BOX = np.array([155.0, 185, 90, 205])
# All augmentations off: every probability is missed, the scale's normal is 0.
QUIET = Draw(
    u_half_body=0.99,
    u_upper=0.99,
    n_upper=1.0,
    n_scale=0.0,
    u_rotate=0.99,
    n_rotation=0.0,
    u_flip=0.99,
    u_brightness=0.5,
    u_contrast=0.5,
    u_saturation=0.5,
)


def window_of(augmentation=AUGMENTATION, labelled=LABELLED, **drawn) -> CropWindow:
    return augmented_window(
        dataclasses.replace(QUIET, **drawn),
        augmentation,
        POSETRACK,
        box_to_window(BOX, SIZE, 1.25),
        JOINTS,
        labelled.astype(int),
        SIZE,
    )


@pytest.mark.parametrize(
    ("u_upper", "center", "size_hw"),
    [
        (0.0, (200, 249.444), (0.9 * 200, 0.675 * 200)),
        (0.9, (200, 345), (0.675 * 200, 0.50625 * 200)),
    ],
)
def test_half_body_golden(u_upper, center, size_hw):
    window = window_of(u_half_body=0.0, u_upper=u_upper)
    np.testing.assert_allclose(window.center_xy_image, center, atol=5e-4)
    np.testing.assert_allclose(window.size_hw_image, size_hw, rtol=1e-6)


def test_half_body_draws():
    draws = [draw_clip(0, 0, str(i)) for i in range(4000)]
    upper = {}
    for how in ("uniform", "normal"):
        boxes = [half_body_box_xywh(d, JOINTS, LABELLED, POSETRACK, how) for d in draws]
        upper[how] = np.mean([box[1] < 200 for box in boxes])
    assert upper["uniform"] == pytest.approx(0.5, abs=0.03)
    assert upper["normal"] == pytest.approx(0.6915, abs=0.03)  # P(N(0, 1) < 0.5)


def test_half_body_needs_more_than_the_minimum_of_joints():
    labelled = np.zeros(17, bool)
    labelled[5:13] = True
    plain = window_of()
    assert window_of(labelled=labelled, u_half_body=0.0) == plain
    labelled[13] = True
    assert window_of(labelled=labelled, u_half_body=0.0) != plain


def test_half_body_with_too_few_joints_below_takes_the_upper_half():
    labelled = LABELLED.copy()
    labelled[13:] = False  # hips only
    draw = dataclasses.replace(QUIET, u_upper=0.9)
    box = half_body_box_xywh(draw, JOINTS, labelled, POSETRACK, "uniform")
    expected = dataclasses.replace(QUIET, u_upper=0.0)
    np.testing.assert_array_equal(
        box, half_body_box_xywh(expected, JOINTS, LABELLED, POSETRACK, "uniform")
    )


def test_half_body_of_joints_in_a_line_or_a_point():
    line = np.zeros((17, 2))
    line[:, 1] = np.arange(17)
    box = half_body_box_xywh(QUIET, line, LABELLED, POSETRACK, "uniform")
    window = box_to_window(box, SIZE, 1.5)
    assert window.size_hw_image == pytest.approx((7.5, 5.625))  # slots 11..16
    point = np.ones((17, 2))
    assert half_body_box_xywh(QUIET, point, LABELLED, POSETRACK, "uniform") is None


def test_scale_and_rotation_are_clipped():
    plain = window_of()
    assert plain.rotation_deg == 0 and not plain.flip
    assert plain.size_hw_image == box_to_window(BOX, SIZE, 1.25).size_hw_image
    for normal, factor in ((9, 1.35), (-9, 0.65), (1, 1.35), (-0.5, 0.825)):
        window = window_of(n_scale=normal)
        ratio = np.array(window.size_hw_image) / plain.size_hw_image
        np.testing.assert_allclose(ratio, factor)
    assert window_of(u_rotate=0.0, n_rotation=9).rotation_deg == 90
    assert window_of(u_rotate=0.0, n_rotation=-1).rotation_deg == -45
    assert window_of(u_rotate=0.6, n_rotation=-1).rotation_deg == 0


def test_rotated_affine_golden():
    window = CropWindow((140, 150), (266.666667, 200), rotation_deg=30)
    np.testing.assert_allclose(
        image_to_crop_affine(window, SIZE),
        [[1.247077, 0.72, -138.590725], [-0.72, 1.247077, 105.738514]],
        atol=4e-5,
    )


def test_distribution_of_draws():
    windows = []
    for i in range(4000):
        draw = draw_clip(7, 3, f"sequence/{i}/0")
        base = box_to_window(BOX, SIZE, 1.25)
        visible = LABELLED.astype(int)
        windows.append(
            augmented_window(draw, AUGMENTATION, POSETRACK, base, JOINTS, visible, SIZE)
        )
    rotation = np.array([w.rotation_deg for w in windows])
    assert np.mean(rotation != 0) == pytest.approx(0.6, abs=0.03)
    assert rotation[rotation != 0].std() == pytest.approx(43.2, abs=2)  # clipped at 90
    assert abs(rotation.mean()) < 2
    assert np.mean([w.flip for w in windows]) == pytest.approx(0.5, abs=0.03)
    half = [w.center_xy_image != (200, 287.5) for w in windows]
    assert np.mean(half) == pytest.approx(0.3, abs=0.03)


def test_draw_depends_on_seed_epoch_and_example_only():
    assert draw_clip(1, 2, "a/3/0") == draw_clip(1, 2, "a/3/0")
    others = [
        draw_clip(2, 2, "a/3/0"),
        draw_clip(1, 3, "a/3/0"),
        draw_clip(1, 2, "a/3/1"),
    ]
    for other in others:
        assert other != draw_clip(1, 2, "a/3/0")
    # Frozen: a checkpointed run must go on with the draws it began with.
    draw = draw_clip(0, 0, "sequence/0/0")
    assert draw.u_half_body == pytest.approx(0.1606024275265996, abs=1e-12)
    assert draw.n_scale == pytest.approx(-0.41510996730184785, abs=1e-12)


def crop(window, visible=LABELLED, joints=JOINTS):
    affine = image_to_crop_affine(window, SIZE)
    return crop_keypoints(affine, window.flip, joints, visible, POSETRACK, SIZE)


def test_flip_twice_is_identity():
    plain, mirrored = window_of(), window_of(u_flip=0.0)
    assert mirrored.flip
    xy, weight = crop(plain)
    flipped, flipped_weight = crop(mirrored)
    order = list(POSETRACK.flip_permutation)
    again = flipped[order]
    again[:, 0] = SIZE[1] - 1 - again[:, 0]
    again[[3, 4]] = 0
    np.testing.assert_allclose(again, xy, atol=1e-4)
    np.testing.assert_array_equal(flipped_weight[order], weight)
    # The left wrist now stands where the right one was mirrored to.
    left, right = POSETRACK.index("left_wrist"), POSETRACK.index("right_wrist")
    np.testing.assert_allclose(
        flipped[left], [SIZE[1] - 1 - xy[right, 0], xy[right, 1]], atol=1e-4
    )


def test_flip_moves_labels_with_their_joints():
    labelled = LABELLED.copy()
    labelled[POSETRACK.index("left_knee")] = False
    _, weight = crop(window_of(u_flip=0.0), labelled)
    assert weight[POSETRACK.index("left_knee")] == 1
    assert weight[POSETRACK.index("right_knee")] == 0


def test_keypoint_weight_limits():
    identity = np.eye(2, 3)
    joints = np.zeros((17, 2))
    joints[0], joints[1], joints[2] = (288, 384), (288.01, 10), (-0.01, 10)
    joints[3] = joints[5] = joints[6] = (100, 100)
    visible = np.ones(17, int)
    visible[6] = 0
    xy, weight = crop_keypoints(identity, False, joints, visible, POSETRACK, SIZE)
    # The far border is still inside; an ear is no joint even if a file labels it.
    assert weight[[0, 1, 2, 3, 5, 6]].tolist() == [1, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(xy[6], 0)
    np.testing.assert_allclose(xy[1], (288.01, 10), rtol=1e-6)
    assert xy.dtype == weight.dtype == np.float32


def test_color_matrix():
    assert color_matrix(QUIET, 0.0) is None
    np.testing.assert_allclose(color_matrix(QUIET, 0.4), np.eye(3, 4), atol=1e-12)
    grey = np.array([50.0, 50, 50, 1])
    saturated = color_matrix(dataclasses.replace(QUIET, u_saturation=1.0), 0.4)
    np.testing.assert_allclose(saturated @ grey, 50)
    bright = color_matrix(dataclasses.replace(QUIET, u_brightness=1.0), 0.4)
    np.testing.assert_allclose(bright @ grey, 70)
    flat = color_matrix(dataclasses.replace(QUIET, u_contrast=0.0), 0.4)
    np.testing.assert_allclose(flat @ grey, 0.6 * 50 + 0.4 * 127.5)


def test_unknown_half_body_draw():
    with pytest.raises(ValueError, match="half_body_draw is 'gauss'; choose 'uniform'"):
        dataclasses.replace(AUGMENTATION, half_body_draw="gauss")


def test_rotation_turns_content_counter_clockwise():
    window = CropWindow((100, 100), (384, 288), rotation_deg=90)
    right_of_center = apply_affine(image_to_crop_affine(window, SIZE), [[110, 100]])
    np.testing.assert_allclose(right_of_center, [[144, 182]], atol=1e-9)  # now above
