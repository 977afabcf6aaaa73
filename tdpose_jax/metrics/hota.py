"""Keypoint HOTA of the PoseTrack21 evaluation kit (a TrackEval fork), quirks included.

Per joint and alpha in {0.05, ..., 0.95}: similarity max(0, 1 - d / 0.5001) with d in head
sizes, one-to-one assignment of largest total similarity per frame, true positives are
pairs with similarity >= alpha. Source: anDoer/PoseTrack21 @3e61960.

Quirk kept, since published numbers contain it: in a frame without predictions the joints
of the *whole sequence* count as missed, in a frame without ground truth all predicted
joints of the sequence as false positives.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from tdpose_jax.metrics.matching import Pairs
from tdpose_jax.metrics.person_tables import EvaluationSet

ALPHAS = np.arange(0.05, 0.99, 0.05)
_CUTOFF = 0.5001  # head sizes at which similarity reaches 0
_EPS = np.finfo(np.float64).eps


def keypoint_hota(data: EvaluationSet, pairs: Pairs) -> dict[str, np.ndarray]:
    """Scores identities and joints together.

    Returns:
      Name -> [J + 1] percent, the last entry being the kit's total. Each is the mean over
      the alphas. Names: HOTA, DetA, AssA, DetRe, DetPr, AssRe, AssPr, LocA, RHOTA, FragA,
      FA-HOTA.

    Raises:
      ValueError: if ground truth or predictions lack identities.
    """
    if data.no_tracks:
        raise ValueError(f"{data.no_tracks}; HOTA needs them")
    counts, ratios = _per_sequence(data, pairs)
    # The kit's total column of one sequence: counts summed, ratios averaged over joints.
    counts = {
        k: np.concatenate([v, v.sum(axis=1, keepdims=True)], axis=1)
        for k, v in counts.items()
    }
    ratios = {
        k: np.concatenate([v, v.mean(axis=1, keepdims=True)], axis=1)
        for k, v in ratios.items()
    }
    # Over sequences: counts are summed, ratios weighted by true positives.
    hits = counts["tp"].sum(axis=0)  # [J + 1, alphas]
    missed, wrong = counts["fn"].sum(axis=0), counts["fp"].sum(axis=0)
    mean = {
        k: (v * counts["tp"]).sum(axis=0) / np.maximum(1.0, hits)
        for k, v in ratios.items()
        if k != "LocA"
    }
    located = (ratios["LocA"] * counts["tp"]).sum(axis=0)
    mean["LocA"] = np.maximum(1e-10, located) / np.maximum(1e-10, hits)
    mean["DetA"] = hits / np.maximum(1.0, hits + missed + wrong)
    mean["DetRe"] = hits / np.maximum(1.0, hits + missed)
    mean["DetPr"] = hits / np.maximum(1.0, hits + wrong)
    mean["HOTA"] = np.sqrt(mean["DetA"] * mean["AssA"])
    mean["RHOTA"] = np.sqrt(mean["DetRe"] * mean["AssA"])
    mean["FA-HOTA"] = np.sqrt(mean["DetA"] * np.sqrt(mean["AssA"] * mean["FragA"]))
    return {k: 100.0 * v.mean(axis=-1) for k, v in mean.items()}


def _per_sequence(
    data: EvaluationSet, pairs: Pairs
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Counts tp, fn, fp and ratios AssA, AssRe, AssPr, FragA, LocA: all [S, J, alphas]."""
    truth, guess = data.ground_truth, data.predictions
    num_joints, num_sequences = len(data.joints), data.num_sequences
    shape = (num_sequences, num_joints, len(ALPHAS))
    row, joint, similarity = _assign(data, pairs)
    sequence = data.sequence_of_frame[guess.frame[pairs.prediction[row]]]
    hit = similarity[:, None] >= ALPHAS - _EPS  # [matches, alphas]
    cell = sequence * num_joints + joint  # (sequence, joint) of each match

    def per_cell(cells: np.ndarray, values: np.ndarray) -> np.ndarray:
        sums = np.zeros((num_sequences * num_joints, values.shape[1]))
        np.add.at(sums, cells, values)
        return sums.reshape(shape)

    tp = per_cell(cell, hit.astype(np.float64))
    safe_tp = np.maximum(1.0, tp)
    located = per_cell(cell, hit * similarity[:, None])
    fn, fp = _misses_and_false_positives(data, pairs, tp)

    # Association: how often each pair of identities met, against how often each appeared.
    true_id, pred_id = (
        truth.track[pairs.ground_truth[row]],
        guess.track[pairs.prediction[row]],
    )
    appearances_true = _sum_rows(truth.present, truth.track, truth.num_tracks)
    appearances_pred = _sum_rows(guess.present, guess.track, guess.num_tracks)
    key = (true_id * max(guess.num_tracks, 1) + pred_id) * num_joints + joint
    _, example, pair_of = np.unique(key, return_index=True, return_inverse=True)
    met = np.zeros((len(example), len(ALPHAS)))
    np.add.at(met, pair_of, hit)
    n_true = appearances_true[true_id[example], joint[example]][:, None]
    n_pred = appearances_pred[pred_id[example], joint[example]][:, None]
    union = np.maximum(1.0, n_true + n_pred - met)
    ratios = {
        "AssA": per_cell(cell[example], met * met / union) / safe_tp,
        "AssRe": per_cell(cell[example], met * met / np.maximum(1, n_true)) / safe_tp,
        "AssPr": per_cell(cell[example], met * met / np.maximum(1, n_pred)) / safe_tp,
        "FragA": np.stack(
            [
                _fragments(data, pairs, row, joint, hit[:, a], pair_of, union[:, a])
                for a in range(len(ALPHAS))
            ],
            axis=-1,
        ).reshape(shape)
        / safe_tp,
        "LocA": np.maximum(1e-10, located) / np.maximum(1e-10, tp),
    }
    return {"tp": tp, "fn": fn, "fp": fp}, ratios


def _sum_rows(present: np.ndarray, group: np.ndarray, num_groups: int) -> np.ndarray:
    """[num_groups, J] how many rows of each group have the joint."""
    sums = np.zeros((num_groups, present.shape[1]))
    np.add.at(sums, group, present)
    return sums


def _assign(
    data: EvaluationSet, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches of all frames and joints: pair index, joint, similarity (> 0)."""
    similarity = np.maximum(0.0, 1.0 - pairs.distance / _CUTOFF)
    near = similarity > 0
    frame = data.predictions.frame[pairs.prediction]
    # Who has two candidates in a joint? Only such frames need the Hungarian method.
    rivals = np.zeros((data.num_frames, near.shape[1]), dtype=bool)
    for rows, count in (
        (pairs.prediction, len(data.predictions)),
        (pairs.ground_truth, len(data.ground_truth)),
    ):
        crowded = _sum_rows(near, rows, count)[rows] > 1
        np.logical_or.at(rivals, frame, crowded)
    chosen = near & ~rivals[frame]
    first_pair = np.searchsorted(frame, np.arange(data.num_frames + 1))
    num_truth = np.diff(pairs.first_ground_truth)
    for f, j in zip(*np.nonzero(rivals), strict=True):
        block = slice(first_pair[f], first_pair[f + 1])
        table = similarity[block, j].reshape(-1, num_truth[f])
        picked = np.zeros(table.shape, dtype=bool)
        picked[linear_sum_assignment(table, maximize=True)] = True
        chosen[block, j] = (picked & (table > 0)).ravel()
    row, joint = np.nonzero(chosen)
    return row, joint, similarity[row, joint]


def _misses_and_false_positives(
    data: EvaluationSet, pairs: Pairs, tp: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """fn and fp, [S, J, alphas], with the kit's whole-sequence counts for empty frames."""
    truth, guess = data.ground_truth, data.predictions
    sequence, num = data.sequence_of_frame, data.num_sequences
    joints_true = _sum_rows(truth.present, truth.frame, data.num_frames)  # [F, J]
    joints_pred = _sum_rows(guess.present, guess.frame, data.num_frames)
    all_true = _sum_rows(joints_true, sequence, num)  # [S, J]
    all_pred = _sum_rows(joints_pred, sequence, num)
    no_truth = np.diff(pairs.first_ground_truth) == 0
    no_guess = (np.diff(pairs.first_prediction) == 0) & ~no_truth
    # A sequence without any prediction or any ground truth is counted plainly.
    scored = (all_true.any(axis=1) & all_pred.any(axis=1))[sequence]
    fn, fp = all_true.copy(), all_pred.copy()
    for empty, whole, own, out in (
        (no_guess & scored, all_true, joints_true, fn),
        (no_truth & scored, all_pred, joints_pred, fp),
    ):
        frames = np.flatnonzero(empty)
        np.add.at(out, sequence[frames], whole[sequence[frames]] - own[frames])
    return fn[..., None] - tp, fp[..., None] - tp


def _fragments(
    data: EvaluationSet,
    pairs: Pairs,
    row: np.ndarray,
    joint: np.ndarray,
    hit: np.ndarray,
    pair_of: np.ndarray,
    union: np.ndarray,
) -> np.ndarray:
    """[S * J] sum over fragments of f * f / union, at one alpha.

    A fragment ends when the identity matched to a ground-truth identity changes.
    """
    row, joint, pair_of = row[hit], joint[hit], pair_of[hit]
    true_row = pairs.ground_truth[row]
    track = data.ground_truth.track[true_row]
    # Rows of the table are in frame order, so sorting by row sorts by time.
    order = np.lexsort((true_row, joint, track))
    track, joint, pair_of = track[order], joint[order], pair_of[order]
    frame = data.ground_truth.frame[true_row[order]]
    # A pair index stands for one (true id, predicted id, joint).
    begins = np.flatnonzero(np.diff(pair_of, prepend=-1))
    length = np.diff(np.append(begins, len(pair_of)))
    value = length * length / union[pair_of[begins]]
    cell = data.sequence_of_frame[frame[begins]] * len(data.joints) + joint[begins]
    return np.bincount(
        cell, weights=value, minlength=data.num_sequences * len(data.joints)
    )
