"""Crop windows and affines: golden numbers of the HRNet lineage, and inverses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdpose_jax import geometry as geo

CROP = (384, 288)


@pytest.mark.parametrize(
    ("box", "center", "scale", "matrix"),
    [
        ([100, 50, 80, 200], (140, 150), (0.9375, 1.25), [1.536, -71.04, -38.4]),
        (
            [10.5, 20.25, 300, 120],
            (160.5, 80.25),
            (1.875, 2.5),
            [0.768, 20.736, 130.368],
        ),
    ],
)
def test_box_to_crop_golden(box, center, scale, matrix):
    """The lineage's `center`, `scale` (in 200 px) and matrix for two boxes."""
    window = geo.box_to_window(np.array(box), CROP, 1.25)
    assert window.center_xy_image == pytest.approx(center)
    assert window.size_hw_image == pytest.approx((scale[1] * 200, scale[0] * 200))
    k, tx, ty = matrix
    expected = [[k, 0, tx], [0, k, ty]]
    affine = geo.image_to_crop_affine(window, CROP)
    np.testing.assert_allclose(affine, expected, atol=1e-9)


def test_rotated_affine_golden():
    window = geo.CropWindow((140, 150), (266.6667, 200), rotation_deg=30)
    expected = [[1.247077, 0.72, -138.590725], [-0.72, 1.247077, 105.738514]]
    affine = geo.image_to_crop_affine(window, CROP)
    np.testing.assert_allclose(affine, expected, atol=4e-5)


windows = st.builds(
    geo.CropWindow,
    st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    st.tuples(st.floats(1, 2000), st.floats(1, 2000)),
    st.floats(-180, 180),
    st.booleans(),
)


@given(windows)
def test_crop_then_inverse_is_identity(window):
    affine = geo.image_to_crop_affine(window, CROP)
    both = geo.compose_affine(geo.invert_affine(affine), affine)
    np.testing.assert_allclose(both, np.eye(2, 3), atol=1e-5)


@given(windows)
def test_flip_mirrors_the_crop(window):
    import dataclasses

    points = np.array([[3.0, 5.0], [100.0, -20.0]])
    plain = dataclasses.replace(window, flip=False)
    mirrored = dataclasses.replace(window, flip=True)
    a = geo.apply_affine(geo.image_to_crop_affine(plain, CROP), points)
    b = geo.apply_affine(geo.image_to_crop_affine(mirrored, CROP), points)
    np.testing.assert_allclose(b[:, 0], CROP[1] - 1 - a[:, 0], atol=1e-6)
    np.testing.assert_allclose(b[:, 1], a[:, 1], atol=1e-6)


@pytest.mark.parametrize("box", [[0, 0, 0, 10], [0, 0, 10, -1], [np.nan, 0, 5, 5]])
def test_box_without_area_is_refused(box):
    with pytest.raises(ValueError, match="has no area"):
        geo.box_to_window(np.array(box), CROP, 1.25)


def test_keypoints_box_is_the_tight_box_enlarged():
    points = np.array([[10.0, 20.0], [30.0, 60.0], [999.0, 999.0]])
    box = geo.keypoints_box_xywh(points, [True, True, False], 1.5)
    np.testing.assert_allclose(box, [5, 10, 30, 60])
    assert geo.keypoints_box_xywh(points, [False] * 3, 1.5) is None


def test_iou_of_known_boxes():
    iou = geo.box_iou_xywh([[0, 0, 2, 2]], [[1, 0, 2, 2], [5, 5, 1, 1], [0, 0, 2, 2]])
    np.testing.assert_allclose(iou, [[1 / 3, 0, 1]])
