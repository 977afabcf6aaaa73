"""Percentage of correct keypoints, as mergeable counts.

JHMDB's papers report two normalisations: by the person's box, max(height, width), and by
the torso; both at 0.2, 0.1 and 0.05. PCKh (PoseTrack, MPII) divides by 0.6 times the
diagonal of the head rectangle, at 0.5.

    sums = pck_sums(predicted, truth, labeled, person_box_reference(boxes))
    sums = sums + other_batch
    sums.result(JHMDB, 0.2)  # {"face": percent, ..., "total": percent}
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tdpose_jax.skeleton import Skeleton

JHMDB_THRESHOLDS = (0.2, 0.1, 0.05)


@dataclasses.dataclass(frozen=True)
class PckSums:
    """Counts over any number of persons; add two to merge them.

    Attributes:
      thresholds: A fractions of the reference length.
      correct: [A, K] labelled joints within each threshold, inclusive.
      labeled: [K] labelled joints.
    """

    thresholds: tuple[float, ...]
    correct: np.ndarray
    labeled: np.ndarray

    def __add__(self, other: "PckSums") -> "PckSums":
        if self.thresholds != other.thresholds:
            raise ValueError(
                f"cannot merge PCK at {self.thresholds} with PCK at {other.thresholds}"
            )
        return PckSums(
            self.thresholds,
            self.correct + other.correct,
            self.labeled + other.labeled,
        )

    def result(self, skeleton: Skeleton, threshold: float) -> dict[str, float]:
        """Percent per joint, and `total` over all joints together.

        Joints never labelled are NaN and do not enter the total. `total` divides all
        correct joints by all labelled ones, so that each labelled joint weighs the same.

        Raises:
          ValueError: if the threshold was not counted.
        """
        if threshold not in self.thresholds:
            raise ValueError(
                f"PCK was counted at {self.thresholds}, not at {threshold}"
            )
        correct = self.correct[self.thresholds.index(threshold)]
        used = list(skeleton.evaluated)
        with np.errstate(invalid="ignore"):
            percent = 100.0 * correct / self.labeled
            total = 100.0 * correct[used].sum() / self.labeled[used].sum()
        values = {skeleton.joints[i]: float(percent[i]) for i in used}
        return values | {"total": float(total)}


def pck_sums(
    predicted_xy: np.ndarray,
    truth_xy: np.ndarray,
    labeled: np.ndarray,
    reference: np.ndarray,
    thresholds: Sequence[float] = JHMDB_THRESHOLDS,
) -> PckSums:
    """Counts correct joints.

    Args:
      predicted_xy, truth_xy: [N, K, 2] in the same pixels; a NaN prediction is wrong.
      labeled: [N, K] which joints count; set a padded example's row to False.
      reference: [N] length that distances are divided by, same pixels.
      thresholds: A fractions of it.

    Raises:
      ValueError: shapes that disagree, or a person with labelled joints whose reference
        is not a positive finite length.
    """
    predicted_xy, truth_xy = np.asarray(predicted_xy), np.asarray(truth_xy)
    labeled, reference = np.asarray(labeled, bool), np.asarray(reference, np.float64)
    if predicted_xy.shape != truth_xy.shape or truth_xy.shape != (*labeled.shape, 2):
        raise ValueError(
            f"predicted_xy {predicted_xy.shape}, truth_xy {truth_xy.shape} and labeled "
            f"{labeled.shape} must be [N, K, 2], [N, K, 2] and [N, K]"
        )
    if reference.shape != labeled.shape[:1]:
        raise ValueError(f"reference {reference.shape} must be [{len(labeled)}]")
    bad = labeled.any(axis=1) & ~(np.isfinite(reference) & (reference > 0))
    if bad.any():
        raise ValueError(
            f"person {np.flatnonzero(bad)[0]} has the reference length "
            f"{reference[bad][0]}; leave out persons without one"
        )
    distance = np.linalg.norm(predicted_xy.astype(np.float64) - truth_xy, axis=-1)
    limit = np.asarray(thresholds)[:, None] * reference
    within = distance <= limit[:, :, None]  # [A, N, K]; NaN compares as False
    return PckSums(
        tuple(thresholds), (within & labeled).sum(axis=1), labeled.sum(axis=0)
    )


def person_box_reference(person_box_xywh: np.ndarray) -> np.ndarray:
    """[N] max(width, height) of [N, 4] boxes."""
    return np.max(np.asarray(person_box_xywh)[..., 2:], axis=-1)


def torso_reference(
    truth_xy: np.ndarray, labeled: np.ndarray, skeleton: Skeleton
) -> np.ndarray:
    """[N] left shoulder to right hip; NaN where either is not labelled."""
    ends = [skeleton.index("left_shoulder"), skeleton.index("right_hip")]
    length = np.linalg.norm(truth_xy[:, ends[0]] - truth_xy[:, ends[1]], axis=-1)
    return np.where(np.asarray(labeled, bool)[:, ends].all(axis=1), length, np.nan)


def head_reference(head_box_xyxy: np.ndarray) -> np.ndarray:
    """[N] 0.6 times the diagonal of [N, 4] head rectangles, PoseTrack's head size."""
    box = np.asarray(head_box_xyxy, np.float64)
    return 0.6 * np.linalg.norm(box[..., 2:] - box[..., :2], axis=-1)
