"""MOTA and MOTP of joints: poseval's use of the CLEAR-MOT measures, quirks included.

Each joint of each sequence is one CLEAR-MOT problem. They are independent, so all of them
advance together, one frame at a time. Source: poseval @4258a15 with motmetrics 1.4.0.

poseval's quirks, kept: the last kept frame of a sequence is not scored; a frame whose
ground truth or prediction is empty counts one object, one miss and one false positive for
every joint; an identity that returns after any gap with a new id is a switch.
"""

import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from tdpose_jax.metrics.matching import THRESHOLD, Pairs
from tdpose_jax.metrics.person_tables import EvaluationSet


@dataclasses.dataclass(frozen=True)
class ClearMot:
    """Counts per joint, over sequences. All [J].

    Attributes:
      objects: annotated joints.
      matches, switches: detections, without and with a change of identity.
      misses, false_positives: the rest.
      distance: summed distance of detections, in reference lengths.
      distance_as_printed: the sum poseval takes by mistake, over every motmetrics event:
        each close pair once more (RAW), and copies for changes of identity.
    """

    objects: np.ndarray
    matches: np.ndarray
    switches: np.ndarray
    misses: np.ndarray
    false_positives: np.ndarray
    distance: np.ndarray
    distance_as_printed: np.ndarray

    def mota(self) -> np.ndarray:
        """[J] percent; NaN for joints without objects."""
        errors = self.misses + self.switches + self.false_positives
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = errors / self.objects
        return np.where(self.objects > 0, 100.0 * (1.0 - ratio), np.nan)

    def motp(self) -> np.ndarray:
        """[J] percent, 100 = no distance; 0 for joints without detections."""
        return self._motp(self.distance)

    def motp_as_printed_by_poseval(self) -> np.ndarray:
        """[J] the inflated-error MOTP that poseval prints; only to compare with it."""
        return self._motp(self.distance_as_printed)

    def precision(self) -> np.ndarray:
        """[J] percent; 0 for joints without predictions."""
        found = self.matches + self.switches
        return 100.0 * found / np.maximum(found + self.false_positives, 1)

    def recall(self) -> np.ndarray:
        """[J] percent; 0 for joints without objects."""
        return 100.0 * (self.matches + self.switches) / np.maximum(self.objects, 1)

    def _motp(self, distance: np.ndarray) -> np.ndarray:
        found = self.matches + self.switches
        return np.where(found > 0, 100.0 * (1.0 - distance / np.maximum(found, 1)), 0.0)


class _Memory:
    """What the accumulators remember; all [identities, J], identities numbered globally.

    Attributes:
      hypothesis: last predicted identity of an annotated one, -1 before the first match.
      owner: annotated identity that a predicted one was last *newly* assigned to, or -1.
      was_used: whether a predicted identity was ever matched.
    """

    def __init__(self, num_truth: int, num_guess: int, num_joints: int):
        self.hypothesis = np.full((num_truth, num_joints), -1)
        self.owner = np.full((num_guess, num_joints), -1)
        self.was_used = np.zeros((num_guess, num_joints), dtype=bool)


def clear_mot(
    data: EvaluationSet, pairs: Pairs, threshold: float = THRESHOLD
) -> ClearMot:
    """Runs all accumulators.

    Raises:
      ValueError: if ground truth or predictions lack identities.
    """
    if data.no_tracks:
        raise ValueError(f"{data.no_tracks}; MOTA needs them")
    truth, guess = data.ground_truth, data.predictions
    num_joints = len(data.joints)
    step, scored = _steps(data)
    num_truth = np.diff(pairs.first_ground_truth)
    num_guess = np.diff(pairs.first_prediction)
    normal = scored & (num_truth > 0) & (num_guess > 0)
    dummies = int((scored & ~normal).sum())
    objects = truth.present[normal[truth.frame]].sum(axis=0)
    predicted = guess.present[normal[guess.frame]].sum(axis=0)

    memory = _Memory(truth.num_tracks, guess.num_tracks, num_joints)
    totals = np.zeros((4, num_joints))  # matches, switches, distance, as printed
    order = np.argsort(step, kind="stable")
    order = order[normal[order]]
    for frames in np.split(order, np.flatnonzero(np.diff(step[order])) + 1):
        if len(frames):
            _advance(data, pairs, frames, threshold, memory, totals)
    detections = totals[0] + totals[1]
    return ClearMot(
        objects=objects + dummies,
        matches=totals[0],
        switches=totals[1],
        misses=objects - detections + dummies,
        false_positives=predicted - detections + dummies,
        distance=totals[2],
        distance_as_printed=totals[3],
    )


def _steps(data: EvaluationSet) -> tuple[np.ndarray, np.ndarray]:
    """[F] position of a kept frame in its sequence, and whether MOT scores it."""
    sequence = data.sequence_of_frame
    starts = np.searchsorted(sequence, np.arange(data.num_sequences + 1))
    lengths = np.diff(starts)
    step = np.arange(len(sequence)) - starts[sequence]
    return step, step < lengths[sequence] - 1


def _advance(
    data: EvaluationSet,
    pairs: Pairs,
    frames: np.ndarray,
    threshold: float,
    memory: _Memory,
    totals: np.ndarray,
) -> None:
    """One frame of every sequence in `frames`; adds to `totals` and updates `memory`.

    Arrays are [A, G, P, J]: active frames, annotated and predicted persons (padded with
    infinite distance), joints.
    """
    first_truth, first_guess = pairs.first_ground_truth, pairs.first_prediction
    num_truth = first_truth[frames + 1] - first_truth[frames]
    num_guess = first_guess[frames + 1] - first_guess[frames]
    g, p = np.arange(num_truth.max()), np.arange(num_guess.max())
    # Where a slot is padding, row 0 stands in; its distances are infinite.
    real_g, real_p = g < num_truth[:, None], p < num_guess[:, None]
    row_g = np.where(real_g, first_truth[frames][:, None] + g, 0)
    row_p = np.where(real_p, first_guess[frames][:, None] + p, 0)
    track_g = data.ground_truth.track[row_g]
    track_p = np.where(real_p, data.predictions.track[row_p], -2)
    index = pairs.first[row_p][:, None, :] + g[:, None]
    real = real_g[:, :, None] & real_p[:, None, :]
    distance = pairs.distance[np.where(real, index, 0)]
    free = real[..., None] & (distance <= threshold)
    totals[3] += np.where(free, distance, 0.0).sum(axis=(0, 1, 2))  # RAW events

    # 1. Carry on: in row order, a person keeps the identity it had, if it is near.
    kept = np.zeros_like(free)
    for i in g:
        before = memory.hypothesis[track_g[:, i]]  # [A, J]
        kept[:, i] = free[:, i] & (track_p[:, :, None] == before[:, None])
        free[:, i] &= ~kept[:, i].any(axis=1, keepdims=True)
        free &= ~kept[:, None, i]
    _sum_up(kept, distance, totals, kind=0)

    # 2. Assign the rest: as many as possible, then least distance.
    chosen = _assign(free, distance)
    a, i, k, j = np.nonzero(chosen)
    truth, guess = track_g[a, i], track_p[a, k]
    before, owner = memory.hypothesis[truth, j], memory.owner[guess, j]
    switched = (before >= 0) & (before != guess)
    moved = (owner >= 0) & (owner != truth)
    is_switch = np.zeros_like(chosen)
    is_switch[a, i, k, j] = switched
    _sum_up(chosen & ~is_switch, distance, totals, kind=0)
    _sum_up(is_switch, distance, totals, kind=1)
    # motmetrics' ASCEND, TRANSFER and MIGRATE events carry the distance once more.
    copies = switched & ~memory.was_used[guess, j]
    copies = copies * 1 + moved * 1 + (moved & (before < 0))
    np.add.at(totals[3], j, copies * distance[a, i, k, j])

    memory.hypothesis[truth, j] = guess
    memory.owner[guess, j] = truth
    memory.was_used[guess, j] = True


def _sum_up(
    selected: np.ndarray, distance: np.ndarray, totals: np.ndarray, kind: int
) -> None:
    summed = np.where(selected, distance, 0.0).sum(axis=(0, 1, 2))
    totals[kind] += selected.sum(axis=(0, 1, 2))
    totals[2] += summed
    totals[3] += summed


def _assign(free: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """One-to-one choice among the free pairs of each (frame, joint). [A, G, P, J] bool.

    Where no person has two candidates there is nothing to choose; the Hungarian method
    runs on the rest only.
    """
    contested = (free.sum(axis=2) > 1).any(axis=1) | (free.sum(axis=1) > 1).any(axis=1)
    chosen = free & ~contested[:, None, None]
    for a, j in zip(*np.nonzero(contested), strict=True):
        allowed = free[a, :, :, j]
        near = distance[a, :, :, j]
        # Forbidden pairs cost more than all allowed ones together (as in motmetrics).
        expensive = 2 * min(allowed.shape) * (near[allowed].max() + 1)
        rows, columns = linear_sum_assignment(np.where(allowed, near, expensive))
        chosen[a, rows, columns, j] = allowed[rows, columns]
    return chosen
