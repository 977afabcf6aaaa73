"""Augmentation: one draw per clip, as one crop window and one colour matrix.

What is drawn, in this order (HRNet -> DCPose -> FAMI-Pose): half body, scale, rotation,
flip. All frames of a clip share the draw, so motion inside the clip stays motion. The
draw is a pure function of (seed, epoch, sample id): it does not depend on the batch, the
worker, the process or the number of either.
"""

import dataclasses
import hashlib

import ml_collections
import numpy as np

from tdpose_jax.geometry import CropWindow, apply_affine, box_to_window
from tdpose_jax.skeleton import Skeleton

# A half-body box is tight around joints, hence wider margins than `box_enlarge`. [group]
HALF_BODY_ENLARGE = 1.5
_LUMA_RGB = np.array([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentation fields of `config.data`; their meaning and source stand there.

    Raises:
      ValueError: if `half_body_draw` is not one of the two known draws.
    """

    rotation_deg: float
    rotation_probability: float
    scale_std: float
    flip_probability: float
    half_body_probability: float
    half_body_min_joints: int
    half_body_draw: str
    color_jitter: float

    def __post_init__(self):
        if self.half_body_draw not in ("uniform", "normal"):
            raise ValueError(
                f"config.data.half_body_draw is {self.half_body_draw!r}; choose "
                "'uniform' or 'normal'"
            )

    @classmethod
    def from_config(cls, data: ml_collections.ConfigDict) -> "Augmentation":
        """The fields of this class from `config.data`."""
        return cls(**{f.name: data[f.name] for f in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Draw:
    """The raw random numbers of one clip, before any of them is interpreted.

    All are drawn for every clip, used or not, so that switching one augmentation off
    leaves the others as they were. `u_` are uniform in [0, 1), `n_` standard normal.
    """

    u_half_body: float
    u_upper: float
    n_upper: float
    n_scale: float
    u_rotate: float
    n_rotation: float
    u_flip: float
    u_brightness: float
    u_contrast: float
    u_saturation: float


def draw_clip(seed: int, epoch: int, sample_id: str) -> Draw:
    """The random numbers of one example in one epoch, wherever it is computed."""
    key = int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest())
    sequence = np.random.SeedSequence([seed, epoch, key])
    rng = np.random.Generator(np.random.Philox(sequence))
    values = {}
    for field in dataclasses.fields(Draw):
        is_normal = field.name.startswith("n_")
        values[field.name] = rng.standard_normal() if is_normal else rng.random()
    return Draw(**values)


def half_body_box_xywh(
    draw: Draw,
    keypoints_xy_image: np.ndarray,
    is_labelled: np.ndarray,
    skeleton: Skeleton,
    how: str,
) -> np.ndarray | None:
    """[4] tight box of the upper or the lower joints, or None.

    Args:
      keypoints_xy_image: [K, 2] image pixels.
      is_labelled: [K] bool.
      how: `config.data.half_body_draw`.

    Returns:
      None if the chosen joints are a single point.
    """
    upper = [i for i in skeleton.upper_body if is_labelled[i]]
    lower = [i for i in skeleton.lower_body if is_labelled[i]]
    wants_upper = draw.u_upper < 0.5 if how == "uniform" else draw.n_upper < 0.5
    if wants_upper and len(upper) > 2:
        chosen = upper
    else:
        chosen = lower if len(lower) > 2 else upper
    if not chosen:
        return None
    points = np.asarray(keypoints_xy_image, np.float64)[chosen]
    size = points.max(0) - points.min(0)
    if not size.any():
        return None
    # Joints in a line: the aspect ratio will give the other side.
    size = np.maximum(size, 1e-6)
    # Centred on the mean of the joints, not on the middle of their box. [group]
    return np.concatenate([points.mean(0) - size / 2, size])


def augmented_window(
    draw: Draw,
    augmentation: Augmentation,
    skeleton: Skeleton,
    window: CropWindow,
    keypoints_xy_image: np.ndarray,
    keypoint_visible: np.ndarray,
    crop_size_hw: tuple[int, int],
) -> CropWindow:
    """The training window of one clip.

    Args:
      window: the window without augmentation; a half body replaces it.
      keypoints_xy_image: [K, 2] image pixels of the keyframe.
      keypoint_visible: [K] the label's flag, > 0: labelled.
    """
    labelled = np.asarray(keypoint_visible) > 0
    if (
        labelled.sum() > augmentation.half_body_min_joints
        and draw.u_half_body < augmentation.half_body_probability
    ):
        how = augmentation.half_body_draw
        box = half_body_box_xywh(draw, keypoints_xy_image, labelled, skeleton, how)
        if box is not None:
            window = box_to_window(box, crop_size_hw, HALF_BODY_ENLARGE)
    std = augmentation.scale_std
    scale = float(np.clip(draw.n_scale * std + 1, 1 - std, 1 + std))
    rotation = 0.0
    if draw.u_rotate < augmentation.rotation_probability:
        limit = 2 * augmentation.rotation_deg
        rotation = np.clip(draw.n_rotation * augmentation.rotation_deg, -limit, limit)
    height, width = window.size_hw_image
    return dataclasses.replace(
        window,
        size_hw_image=(height * scale, width * scale),
        rotation_deg=float(rotation),
        flip=draw.u_flip < augmentation.flip_probability,
    )


def crop_keypoints(
    image_to_crop: np.ndarray,
    flip: bool,
    keypoints_xy_image: np.ndarray,
    keypoint_visible: np.ndarray,
    skeleton: Skeleton,
    crop_size_hw: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Joints in the crop, and which of them enter the loss.

    Args:
      image_to_crop: [2, 3], the mirror included if `flip`.
      flip: exchange left and right joints.

    Returns:
      keypoints_xy_crop [K, 2] float32, zeros where unlabelled; keypoint_weight [K]
      float32, 1 where labelled, inside the crop (0 <= x <= W, 0 <= y <= H, both ends
      included [group]) and not a slot that is never annotated.
    """
    labelled = np.asarray(keypoint_visible) > 0
    xy = apply_affine(image_to_crop, np.asarray(keypoints_xy_image, np.float64))
    if flip:
        order = list(skeleton.flip_permutation)
        xy, labelled = xy[order], labelled[order]
    height, width = crop_size_hw
    inside = ((xy >= 0) & (xy <= [width, height])).all(-1)
    annotated = np.ones(skeleton.num_keypoints, bool)
    annotated[list(skeleton.unannotated)] = False
    xy = np.where(labelled[:, None], xy, 0.0)
    weight = labelled & inside & annotated
    return xy.astype(np.float32), weight.astype(np.float32)


def color_matrix(draw: Draw, color_jitter: float) -> np.ndarray | None:
    """[3, 4] affine map of RGB (0..255) for the whole clip; None if switched off.

    Saturation mixes with the luma, contrast pulls towards mid-grey, brightness scales;
    each factor is uniform in [1 - color_jitter, 1 + color_jitter]. Mid-grey stands for
    the mean of the picture so that the matrix does not depend on the pixels.
    """
    if not color_jitter:
        return None
    brightness, contrast, saturation = (
        1 + color_jitter * (2 * u - 1)
        for u in (draw.u_brightness, draw.u_contrast, draw.u_saturation)
    )
    matrix = saturation * np.eye(3) + (1 - saturation) * _LUMA_RGB[None, :]
    offset = np.full((3, 1), (1 - contrast) * 127.5)
    return brightness * np.concatenate([contrast * matrix, offset], axis=1)
