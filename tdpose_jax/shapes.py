"""The dimension key of the whole project, and the one batch type that travels.

| letter | meaning |
| --- | --- |
| `B` | examples: one person in one window each |
| `T` | frames in the window, `2 * window_delta + 1`; the keyframe is in the middle |
| `H W` | crop height and width, pixels |
| `h w` | heatmap height and width, pixels (stride 4) |
| `C` | channels |
| `K` | keypoints |
| `S` | backbone stages |
| `P` | people in a frame |

Points are (x, y); sizes are (height, width); a suffix names the frame of reference:
`_image` (pixels of the video frame), `_crop` (pixels of the network's input),
`_heatmap` (pixels of the network's output). In all three, integer coordinates are
pixel centres: pixel (0, 0) covers [-0.5, 0.5].
"""

from collections.abc import Sequence

import chex
import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

AnyArray = jax.Array | np.ndarray

IMAGENET_MEAN_RGB = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD_RGB = np.array([0.229, 0.224, 0.225], np.float32)
HEATMAP_STRIDE = 4


@chex.dataclass(frozen=True)
class PoseBatch:
    """One batch of clips. A pytree: it can be sharded, jitted over and donated.

    Under pmap every field has one more leading axis, the local devices.
    """

    frames: UInt8[AnyArray, "B T H W 3"]
    """RGB crops in time order, uint8; normalised on the device."""
    keypoints_xy_crop: Float[AnyArray, "B K 2"]
    """Joints of the keyframe's person, crop pixels; zeros where unannotated."""
    keypoint_weight: Float[AnyArray, "B K"]
    """1 if the joint enters the loss: annotated, inside the crop, not an empty slot."""
    crop_to_image: Float[AnyArray, "B 2 3"]
    """Affine from crop pixels to pixels of the video frame."""
    frame_is_real: Bool[AnyArray, "B T"]
    """False where a sequence's edge was filled by repeating the nearest frame."""
    box_score: Float[AnyArray, " B"]
    """The detector's confidence in the person's box; 1 for annotated boxes."""
    example_is_real: Bool[AnyArray, " B"]
    """False for the padding of an evaluation batch."""
    sample_id: UInt8[AnyArray, "B L"]
    """`sequence/frame/person`, UTF-8, padded with zeros (see `encode_sample_ids`)."""
    stage_features: tuple[Float[AnyArray, "B T h w _"], ...] | None = None
    """A frozen backbone's four stage features, computed before (`feature_cache.py`)."""


SAMPLE_ID_BYTES = 128


def encode_sample_ids(sample_ids: Sequence[str]) -> np.ndarray:
    """Strings -> [B, SAMPLE_ID_BYTES] uint8, because devices carry no strings.

    Raises:
      ValueError: if an id does not fit, rather than truncating it into another id.
    """
    out = np.zeros((len(sample_ids), SAMPLE_ID_BYTES), np.uint8)
    for row, sample_id in enumerate(sample_ids):
        raw = sample_id.encode()
        if len(raw) > SAMPLE_ID_BYTES:
            raise ValueError(
                f"sample id {sample_id!r} has {len(raw)} bytes; at most "
                f"{SAMPLE_ID_BYTES} fit (shapes.SAMPLE_ID_BYTES)"
            )
        out[row, : len(raw)] = np.frombuffer(raw, np.uint8)
    return out


def decode_sample_ids(encoded: np.ndarray) -> list[str]:
    """Inverse of `encode_sample_ids`."""
    return [bytes(row).rstrip(b"\0").decode() for row in np.asarray(encoded)]
