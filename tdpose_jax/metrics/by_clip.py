"""PCK of two sets of runs compared clip by clip, and by how fast the joints move.

People of one clip are not independent, so intervals resample clips, not people: the
percentile bootstrap over clips of the difference of two PCKs, all seeds of both sides
together.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import maximum_filter, median_filter

from tdpose_jax.annotations import SequenceLabel

BOOTSTRAP_SAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class ClipErrors:
    """Errors of one run on one clip; F frames of one person each.

    Attributes:
      name: of the clip.
      distance: [F, K] error as a fraction of the longer side of the person's box.
      labeled: [F, K] bool, which joints count.
      speed: [F, K] how far the true joint moves between neighbouring frames, as a
        fraction of the same length; NaN where no neighbour is labelled.
    """

    name: str
    distance: np.ndarray
    labeled: np.ndarray
    speed: np.ndarray


def clip_errors(
    ground_truth: Sequence[SequenceLabel],
    predictions: Sequence[SequenceLabel],
    median_frames: int = 1,
    motion_frames: int = 0,
) -> list[ClipErrors]:
    """Pairs frames in order; clips of one labelled person (JHMDB).

    Args:
      median_frames: > 1: each predicted coordinate is first replaced by its median over
        so many frames. What that gains is what a window of frames can gain by averaging
        out errors that differ from frame to frame; what it leaves is bias.
      motion_frames: > 0: the median is taken along the label's own motion, over
        labelled frames: an oracle that knows how every joint moves. The motion is that
        of the label averaged over so many frames; 1 is the label itself, whose jumps
        from click to click no network can see.

    Raises:
      ValueError: if a clip has no predictions, or a frame not exactly one person.
    """
    by_name = {sequence.name: sequence for sequence in predictions}
    result = []
    for sequence in ground_truth:
        if sequence.name not in by_name:
            raise ValueError(f"there are no predictions for clip {sequence.name!r}")
        pairs = zip(sequence.frames, by_name[sequence.name].frames, strict=True)
        truth, predicted, length = [], [], []
        for true_frame, frame in pairs:
            if len(true_frame.persons) != 1 or len(frame.persons) != 1:
                raise ValueError(
                    f"clip {sequence.name!r}, frame {true_frame.image_name!r}: "
                    f"{len(true_frame.persons)} labelled and {len(frame.persons)} "
                    "predicted people; clips of one person are compared"
                )
            truth.append(true_frame.persons[0].keypoints_xyv)
            predicted.append(frame.persons[0].keypoints_xyv[:, :2])
            length.append(max(true_frame.persons[0].person_box_xywh[2:]))
        truth, length = np.array(truth), np.array(length)[:, None]
        labeled = truth[..., 2] > 0
        if motion_frames:
            known = np.where(labeled[..., None], truth[..., :2], np.nan)
            moving = _over_windows(np.nanmean, known, motion_frames)
            moving[~labeled] = np.nan
            beside = _over_windows(np.nanmedian, predicted - moving, median_frames)
            predicted = beside + moving
        else:
            size = (median_frames, 1, 1)
            predicted = median_filter(predicted, size, mode="nearest")
        error = np.linalg.norm(predicted - truth[..., :2], axis=-1) / length
        result.append(
            ClipErrors(sequence.name, error, labeled, _speed(truth, labeled) / length)
        )
    return result


def _over_windows(function, values: np.ndarray, size: int) -> np.ndarray:
    """[F, ...] of `size` frames around each, NaN left out; NaN where all are."""
    width = [(size // 2, size // 2)] + [(0, 0)] * (values.ndim - 1)
    windows = sliding_window_view(np.pad(values, width, mode="edge"), size, axis=0)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        return function(windows, axis=-1)


def _speed(truth: np.ndarray, labeled: np.ndarray) -> np.ndarray:
    """[F, K] mean displacement to the labelled neighbours in time, pixels."""
    step = np.linalg.norm(np.diff(truth[..., :2], axis=0), axis=-1)
    both = labeled[1:] & labeled[:-1]
    total = np.zeros(labeled.shape)
    count = np.zeros(labeled.shape)
    for part in (slice(1, None), slice(None, -1)):
        total[part] += np.where(both, step, 0.0)
        count[part] += both
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pck_counts(
    clips: Sequence[ClipErrors],
    threshold: float,
    speed_range: tuple[float, float] = (-np.inf, np.inf),
) -> np.ndarray:
    """[clips, 2] correct and counted joints, of joints with a speed in [low, high).

    Joints of unknown speed count in the unlimited range only.
    """
    low, high = speed_range
    counts = []
    for clip in clips:
        chosen = clip.labeled
        if speed_range != (-np.inf, np.inf):
            chosen = chosen & (clip.speed >= low) & (clip.speed < high)
        counts.append([(chosen & (clip.distance <= threshold)).sum(), chosen.sum()])
    return np.array(counts)


def wrong_joint_shares(
    clips: Sequence[ClipErrors], threshold: float, reach: int = 2
) -> tuple[float, float]:
    """(bias, flicker) in percent of the labelled joints that are wrong at a threshold.

    bias: their joint is wrong in more than half of its labelled frames of the clip, so
    that no window of frames can vote it right. flicker: the joint is right at most
    `reach` frames away. A joint can be both, or neither. NaN if no joint is wrong.
    """
    total = bias = flicker = 0
    for clip in clips:
        right = clip.labeled & (clip.distance <= threshold)
        wrong = clip.labeled & ~right
        mostly_wrong = wrong.sum(0) > 0.5 * clip.labeled.sum(0)
        # The largest of each joint's frames f - reach to f + reach.
        near_right = maximum_filter(
            right, (2 * reach + 1, 1), mode="constant", cval=False
        )
        total += wrong.sum()
        bias += (wrong & mostly_wrong).sum()
        flicker += (wrong & near_right).sum()
    if not total:
        return float("nan"), float("nan")
    return 100.0 * float(bias / total), 100.0 * float(flicker / total)


def worst_first(seeds: Sequence[Sequence[ClipErrors]], threshold: float) -> list[str]:
    """Names of the clips in the order of their PCK over all seeds, the least first."""
    counts = np.sum([pck_counts(clips, threshold) for clips in seeds], axis=0)
    percent = counts[:, 0] / np.maximum(counts[:, 1], 1)
    return [seeds[0][i].name for i in np.argsort(percent, kind="stable")]


def speed_thirds(clips: Sequence[ClipErrors]) -> list[tuple[str, tuple[float, float]]]:
    """Three ranges of speed with equally many labelled joints: slow, medium, fast."""
    speeds = np.concatenate([clip.speed[clip.labeled] for clip in clips])
    first, second = np.nanquantile(speeds, [1 / 3, 2 / 3])
    return [
        ("slow", (-1.0, float(first))),
        ("medium", (float(first), float(second))),
        ("fast", (float(second), np.inf)),
    ]


def bootstrap_difference(
    baseline: Sequence[np.ndarray],
    candidate: Sequence[np.ndarray],
    samples: int = BOOTSTRAP_SAMPLES,
) -> tuple[float, float, float]:
    """(difference, low, high) in points: candidate minus baseline, 95 % over clips.

    Args:
      baseline, candidate: per seed, `pck_counts` [clips, 2] over the same clips.
    """
    sides = [np.sum(list(side), axis=0) for side in (baseline, candidate)]
    rng = np.random.default_rng(0)
    count = len(sides[0])
    picks = rng.integers(0, count, (samples, count))

    def percent(side, rows):
        sums = side[rows].sum(-2)
        return 100.0 * sums[..., 0] / np.maximum(sums[..., 1], 1)

    whole = np.arange(count)
    difference = percent(sides[1], whole) - percent(sides[0], whole)
    resampled = percent(sides[1], picks) - percent(sides[0], picks)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(difference), float(low), float(high)
