"""Keypoints -> Gaussian heatmaps -> keypoints. Encode and decode live together.

Coordinates: heatmap pixel (i, j) lies at crop pixel (stride * i, stride * j); there is
no half-pixel term, as in HRNet and its descendants. Both directions run on the
accelerator and are differentiable where that makes sense.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tdpose_jax.shapes import HEATMAP_STRIDE, AnyArray

DECODERS = ("subpixel", "quarter")
ENCODERS = ("subpixel", "integer")


def encode_heatmaps(
    keypoints_xy_crop: Float[AnyArray, "*B K 2"],
    keypoint_weight: Float[AnyArray, "*B K"],
    heatmap_size_hw: tuple[int, int],
    sigma: float,
    encoder: str = "integer",
) -> tuple[Float[jax.Array, "*B h w K"], Float[jax.Array, "*B K"]]:
    """One Gaussian of peak 1 per keypoint, cut hard at 3 sigma and at the border.

    Args:
      sigma: Gaussian width in heatmap pixels (3 at 96 x 72 in the paper's lineage).
      encoder: `"integer"` centres the Gaussian on the nearest pixel, int(x/4 + 0.5)
        ([group]); `"subpixel"` on x/4 itself (ours), which a sub-pixel decoder needs.

    Returns:
      target heatmaps [*B, h, w, K] and the weights [*B, K], now zero for joints whose
      patch lies wholly outside the map, or whose point lies outside the crop.

    Raises:
      ValueError: for an unknown encoder.
    """
    if encoder not in ENCODERS:
        raise ValueError(f"unknown encoder {encoder!r}; choose one of {ENCODERS}")
    h, w = heatmap_size_hw
    xy = jnp.asarray(keypoints_xy_crop, jnp.float32)
    mu = xy / HEATMAP_STRIDE
    # int(x/4 + 0.5), truncating toward zero, is the lineage's rounding.
    pixel = jnp.trunc(mu + 0.5)
    if encoder == "integer":
        mu = pixel
    radius = jnp.floor(3 * sigma)
    limits = jnp.array([w, h], jnp.float32)
    in_crop = jnp.all((xy >= 0) & (xy <= limits * HEATMAP_STRIDE), axis=-1)
    patch_in_map = jnp.all(
        (pixel - radius < limits) & (pixel + radius + 1 >= 0), axis=-1
    )
    weight = jnp.minimum(keypoint_weight, 1.0) * in_crop * patch_in_map

    def axis_profile(centre, pixel_centre, length):
        position = jnp.arange(length, dtype=jnp.float32)
        distance = position - centre[..., None]
        inside = jnp.abs(position - pixel_centre[..., None]) <= radius
        return jnp.where(inside, jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)

    profile_x = axis_profile(mu[..., 0], pixel[..., 0], w)
    profile_y = axis_profile(mu[..., 1], pixel[..., 1], h)
    maps = jnp.einsum("...ky,...kx->...yxk", profile_y, profile_x)
    return maps * (weight > 0)[..., None, None, :], weight


def decode_heatmaps(
    heatmaps: Float[AnyArray, "*B h w K"], decoder: str = "quarter"
) -> tuple[Float[jax.Array, "*B K 2"], Float[jax.Array, "*B K"]]:
    """Peak position and value of each map.

    Args:
      decoder: `"quarter"` moves the integer peak a quarter pixel towards its larger
        neighbour, except at the border ([group]); `"subpixel"` fits a parabola to the
        logarithm of the three values around the peak along each axis, which is exact
        for a Gaussian (ours).

    Returns:
      keypoints_xy_heatmap [*B, K, 2], zeros where the maximum is not positive, and
      keypoint_score [*B, K], the maximum itself.

    Raises:
      ValueError: for an unknown decoder.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; choose one of {DECODERS}")
    maps = jnp.moveaxis(jnp.asarray(heatmaps, jnp.float32), -1, -3)
    h, w = maps.shape[-2:]
    flat = maps.reshape(*maps.shape[:-2], h * w)
    best = jnp.argmax(flat, axis=-1)
    score = jnp.max(flat, axis=-1)
    px, py = best % w, best // w

    def value(dx, dy):
        # A clipped neighbour is never used: `interior` below excludes the border.
        x, y = jnp.clip(px + dx, 0, w - 1), jnp.clip(py + dy, 0, h - 1)
        return jnp.take_along_axis(flat, (y * w + x)[..., None], axis=-1)[..., 0]

    if decoder == "quarter":
        shift_x = 0.25 * jnp.sign(value(1, 0) - value(-1, 0))
        shift_y = 0.25 * jnp.sign(value(0, 1) - value(0, -1))
        interior = (px > 1) & (px < w - 1) & (py > 1) & (py < h - 1)
        interior_x = interior_y = interior
    else:
        shift_x = _log_parabola_peak(value(-1, 0), score, value(1, 0))
        shift_y = _log_parabola_peak(value(0, -1), score, value(0, 1))
        interior_x = (px > 0) & (px < w - 1)
        interior_y = (py > 0) & (py < h - 1)
    xy = jnp.stack(
        [
            px + jnp.where(interior_x, shift_x, 0.0),
            py + jnp.where(interior_y, shift_y, 0.0),
        ],
        axis=-1,
    )
    return jnp.where((score > 0)[..., None], xy, 0.0), score


def _log_parabola_peak(left, centre, right):
    """Offset in [-0.5, 0.5] of the vertex of a parabola through three log values."""
    # Predicted maps can be <= 0 beside the peak; the floor is far below any useful
    # value and keeps the offset finite.
    floor = 1e-4 * jnp.maximum(centre, 1e-6)
    left, centre, right = (
        jnp.log(jnp.maximum(v, floor)) for v in (left, centre, right)
    )
    curvature = left - 2 * centre + right
    offset = 0.5 * (left - right) / jnp.where(curvature < -1e-6, curvature, -1e-6)
    return jnp.clip(jnp.where(curvature < -1e-6, offset, 0.0), -0.5, 0.5)


def heatmap_to_crop(keypoints_xy_heatmap: AnyArray) -> AnyArray:
    """Heatmap pixels -> crop pixels: times the stride, no half-pixel term."""
    return keypoints_xy_heatmap * HEATMAP_STRIDE


def flip_heatmaps(
    heatmaps: Float[AnyArray, "*B h w K"], flip_permutation: Sequence[int]
) -> Float[AnyArray, "*B h w K"]:
    """Maps of a mirrored crop -> maps of the crop itself.

    The mirror sends crop pixel x to W - 1 - x, that is heatmap pixel i to
    (W - 1) / 4 - i = w - 1 - i + 3/4. Reversing the columns realises w - 1 - i, so the
    reversed map is 3/4 of a pixel too far left; the whole-pixel shift of the HRNet
    family corrects by 1. We shift by exactly 3/4, interpolating between neighbours.
    """
    reversed_maps = jnp.asarray(heatmaps)[..., ::-1, :]
    reversed_maps = reversed_maps[..., np.asarray(flip_permutation)]
    left_neighbour = jnp.concatenate(
        [reversed_maps[..., :1, :], reversed_maps[..., :-1, :]], axis=-2
    )
    shift = (HEATMAP_STRIDE - 1) / HEATMAP_STRIDE
    return (1 - shift) * reversed_maps + shift * left_neighbour
