"""How far another framework's copy of the model is from the Flax model, in float32.

Heatmaps are compared everywhere. Joints are compared where their position is a property
of the model: an untrained or occluded joint can have two peaks of nearly equal height,
or two neighbours that are equal to the last bits, and then rounding decides. A joint
counts as *determined* if our own decoder finds it within `MAX_JOINT_PX` when its map is
disturbed by `ROUNDING` of the largest heatmap value, which is what float32 leaves
uncertain after a hundred layers. How many joints were compared is reported, and comparing
none is a failure.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from tdpose_jax.heatmaps import decode_heatmaps, heatmap_to_crop
from tdpose_jax.interop.weights_file import WeightsError

MAX_JOINT_PX = 0.01
# Both relative to the largest absolute heatmap value.
ROUNDING = 1e-5
MAX_HEATMAP_DIFFERENCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two models on the same crops.

    Attributes:
      heatmap: largest absolute difference of a heatmap value.
      heatmap_peak: largest absolute heatmap value.
      joint_px: largest distance of a determined joint, crop pixels.
      num_compared, num_joints: determined joints, and all of them.
    """

    heatmap: float
    heatmap_peak: float
    joint_px: float
    num_compared: int
    num_joints: int

    def __str__(self) -> str:
        return (
            f"heatmaps differ by {self.heatmap:.2g} (peak {self.heatmap_peak:.2g}), "
            f"joints by {self.joint_px:.2g} px ({self.num_compared} of "
            f"{self.num_joints} compared)"
        )

    def check(self, what: str) -> None:
        """Raises WeightsError unless the models are equal as far as float32 goes."""
        if not self.heatmap <= MAX_HEATMAP_DIFFERENCE * self.heatmap_peak:
            problem = f"heatmaps may differ by {MAX_HEATMAP_DIFFERENCE} of the peak"
        elif not self.joint_px <= MAX_JOINT_PX:
            problem = f"joints may differ by {MAX_JOINT_PX} px"
        elif not self.num_compared:
            problem = "no heatmap has a peak that rounding could not move"
        else:
            return
        raise WeightsError(f"{what} is not the model: {self}; {problem}")


def difference(
    ours: Float[np.ndarray, "N h w K"],
    theirs: Float[np.ndarray, "N h w K"],
    decoder: str,
) -> Difference:
    """Compares heatmaps, and the joints that `decoder` finds in them."""
    xy_crop = _decode(np.stack([ours, theirs]), decoder)
    distance = np.linalg.norm(xy_crop[0] - xy_crop[1], axis=-1)
    compared = determined_joints(ours, decoder)
    return Difference(
        heatmap=float(np.abs(ours - theirs).max()),
        heatmap_peak=float(np.abs(ours).max()),
        joint_px=float(np.max(distance[compared], initial=0.0)),
        num_compared=int(compared.sum()),
        num_joints=compared.size,
    )


def determined_joints(
    maps: Float[np.ndarray, "N h w K"], decoder: str
) -> Bool[np.ndarray, "N K"]:
    """Which joints rounding cannot move by more than `MAX_JOINT_PX`; see the module.

    The maximum must be positive and stand out by twice the rounding. Then everything to
    one side of it is raised and everything to the other lowered, along both axes, and
    the maximum itself is raised and lowered.
    """
    noise = ROUNDING * np.abs(maps).max()
    n, h, w, k = maps.shape
    flat = maps.reshape(n, h * w, k)
    second, best = np.moveaxis(np.partition(flat, -2, axis=1)[:, -2:], 1, 0)
    determined = (best > noise) & (best - second > 2 * noise)

    row, column = np.divmod(flat.argmax(1)[:, None, None], w)
    side_x = np.sign(np.arange(w)[:, None] - column)
    side_y = np.sign(np.arange(h)[:, None, None] - row)
    peak = (side_x == 0) & (side_y == 0)
    disturbances = (np.zeros(1), side_x, side_y, peak, -side_x, -side_y, -1 * peak)
    xy_crop = _decode(np.stack([maps + noise * d for d in disturbances]), decoder)
    moved = np.linalg.norm(xy_crop - xy_crop[0], axis=-1).max(0)
    return determined & (moved <= MAX_JOINT_PX)


def _decode(maps: np.ndarray, decoder: str) -> np.ndarray:
    decode = jax.jit(decode_heatmaps, static_argnums=1)
    xy_heatmap, _ = decode(maps.astype(np.float32), decoder)
    return np.asarray(heatmap_to_crop(xy_heatmap))


def compare(
    ours: Callable[[UInt8[np.ndarray, "1 T H W 3"]], Float[np.ndarray, "1 h w K"]],
    others: dict[str, Callable],
    clips: dict[str, UInt8[np.ndarray, "N T H W 3"]],
    decoder: str,
) -> list[Difference]:
    """Runs all models clip by clip, prints a line for each pair and checks it.

    Args:
      others: name -> function like `ours`.
      clips: name -> RGB clips.

    Raises:
      WeightsError: if a model differs by more than this module allows.
    """
    differences = []
    for clip_name, batch in clips.items():
        maps = run(ours, batch)
        for name, other in others.items():
            result = difference(maps, run(other, batch), decoder)
            print(f"{name} on {len(batch)} {clip_name}: {result}")
            result.check(name)
            differences.append(result)
    return differences


def run(model: Callable, clips: UInt8[np.ndarray, "N T H W 3"]) -> np.ndarray:
    """One clip at a time, which bounds the memory."""
    return np.concatenate([np.asarray(model(clip[None])) for clip in clips])
