"""Boxes and affine maps between the video frame and the crop. numpy only.

Convention (ours): integer coordinates are pixel centres, and the crop's affine maps
the centre of the enlarged box to (W / 2, H / 2) of the crop with one scale for both
axes. This is the convention of HRNet, DCPose and FAMI-Pose, so that their published
numbers can be chased; the golden numbers in the tests pin it.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class CropWindow:
    """What part of the video frame the crop shows.

    Attributes:
      center_xy_image: centre of the window, image pixels.
      size_hw_image: height and width of the window in image pixels, already at the
        crop's aspect ratio and already enlarged.
      rotation_deg: the window is turned by this angle; positive turns the crop's
        content counter-clockwise on screen.
      flip: the crop is mirrored left to right, after everything else.
    """

    center_xy_image: tuple[float, float]
    size_hw_image: tuple[float, float]
    rotation_deg: float = 0.0
    flip: bool = False


def box_to_window(
    person_box_xywh: np.ndarray, crop_size_hw: tuple[int, int], box_enlarge: float
) -> CropWindow:
    """Brings a box to the crop's aspect ratio by growing one side, then enlarges it.

    Args:
      person_box_xywh: [4] left, top, width, height; image pixels.
      crop_size_hw: height and width of the crop.
      box_enlarge: 1.25 in the paper.

    Raises:
      ValueError: if the box has no area or is not finite.
    """
    x, y, w, h = (float(v) for v in person_box_xywh)
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        raise ValueError(f"person box {[x, y, w, h]} (x, y, w, h) has no area")
    aspect = crop_size_hw[1] / crop_size_hw[0]
    w_out, h_out = (w, w / aspect) if w > aspect * h else (aspect * h, h)
    return CropWindow(
        center_xy_image=(x + w / 2, y + h / 2),
        size_hw_image=(h_out * box_enlarge, w_out * box_enlarge),
    )


def image_to_crop_affine(
    window: CropWindow, crop_size_hw: tuple[int, int]
) -> np.ndarray:
    """[2, 3] affine from image pixels to crop pixels.

    The scale is taken from the window's width alone, as the HRNet family does.
    """
    crop_h, crop_w = crop_size_hw
    k = crop_w / window.size_hw_image[1]
    r = np.deg2rad(window.rotation_deg)
    cos, sin = k * np.cos(r), k * np.sin(r)
    cx, cy = window.center_xy_image
    linear = np.array([[cos, sin], [-sin, cos]])
    shift = np.array([crop_w / 2, crop_h / 2]) - linear @ np.array([cx, cy])
    affine = np.concatenate([linear, shift[:, None]], axis=1)
    if window.flip:
        mirror = np.array([[-1.0, 0.0, crop_w - 1.0], [0.0, 1.0, 0.0]])
        affine = compose_affine(mirror, affine)
    return affine


def invert_affine(affine: np.ndarray) -> np.ndarray:
    """Inverse of [..., 2, 3] affines.

    Raises:
      numpy.linalg.LinAlgError: if an affine is singular.
    """
    affine = np.asarray(affine)
    linear = np.linalg.inv(affine[..., :2].astype(np.float64))
    shift = -np.einsum("...ij,...j->...i", linear, affine[..., 2])
    return np.concatenate([linear, shift[..., None]], axis=-1)


def compose_affine(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The affine that applies `inner` first, then `outer`."""
    linear = outer[..., :2] @ inner[..., :2]
    shift = np.einsum("...ij,...j->...i", outer[..., :2], inner[..., 2])
    return np.concatenate([linear, (shift + outer[..., 2])[..., None]], axis=-1)


def apply_affine(affine: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Maps [..., K, 2] points by [..., 2, 3] affines."""
    return (
        np.einsum("...ij,...kj->...ki", affine[..., :2], points_xy)
        + affine[..., None, :, 2]
    )


def keypoints_box_xywh(
    keypoints_xy: np.ndarray, is_valid: np.ndarray, enlarge: float
) -> np.ndarray | None:
    """Tight box of the valid points, enlarged about its centre; None without points.

    PoseTrack18's own `bbox` is this with `enlarge=1.3`, not clipped to the image.
    """
    points = np.asarray(keypoints_xy, np.float64)[np.asarray(is_valid, bool)]
    if not len(points):
        return None
    low, high = points.min(0), points.max(0)
    size = (high - low) * enlarge
    return np.concatenate([(low + high) / 2 - size / 2, size])


def box_iou_xywh(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: [N, 4], [M, 4] -> [N, M]."""
    a = np.asarray(boxes_a, np.float64).reshape(-1, 1, 4)
    b = np.asarray(boxes_b, np.float64).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    overlap = np.clip(high - low, 0, None).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - overlap
    return overlap / np.maximum(union, 1e-12)
